// The whole public API.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/batch.h"
#include "rankfold/causal_lm.h"
#include "rankfold/chat_template.h"
#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"
#include "rankfold/evaluate.h"
#include "rankfold/generate.h"
#include "rankfold/memory.h"
#include "rankfold/tensor_file.h"
#include "rankfold/tokenizer.h"
#include "rankfold/trainer.h"
