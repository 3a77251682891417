// Settings of other trainers that we do not have, and the advice that an error gives for them.
#pragma once

#include <string_view>

namespace rankfold {

struct ForeignKey {
  std::string_view name;
  const char* advice;
};

inline constexpr const char* kEvaluation = "leave it out: --eval_dataset or --val_size gives rows to evaluate on";
inline constexpr const char* kNoEffect = "leave it out: nothing here depends on it";
inline constexpr const char* kNotSupported = "leave it out: it is not supported";
inline constexpr const char* kOwnLog = "leave it out: the log is train_log.jsonl in output_dir";
inline constexpr const char* kOneLength = "write --max_length: question and answer together";

inline constexpr ForeignKey kForeignKeys[] = {
    {"bf16", "write --dtype bfloat16"},
    {"fp16", "write --dtype float16 on a GPU, or --dtype bfloat16"},
    {"fp32", "write --dtype float32"},
    {"pure_bf16", "write --dtype bfloat16"},
    {"optim", "leave it out: the optimizer is AdamW"},
    {"save_strategy", "leave it out: --save_steps says when, 0 at the end alone"},
    {"logging_strategy", "leave it out: --logging_steps says when"},
    {"logging_first_step", "leave it out: --logging_steps 1 logs every step"},
    {"do_train", "leave it out: lora-train trains"},
    {"do_eval", kEvaluation},
    {"do_predict", "leave it out: lora-eval and lora-generate answer"},
    {"greater_is_better", "leave it out: losses and perplexities are better when lower, other metrics when higher"},
    {"run_name", kOwnLog},
    {"logging_dir", "leave it out: event files lie below output_dir/runs"},
    {"plot_loss", "leave it out: training_loss.svg is always written"},
    {"wandb_project", kOwnLog},
    {"disable_tqdm", kNoEffect},
    {"overwrite_output_dir", "leave it out: output_dir may hold an earlier run"},
    {"overwrite_cache", "leave it out: a cache of other data is written anew"},
    {"dataloader_num_workers", kNoEffect},
    {"dataloader_pin_memory", kNoEffect},
    {"dataset_num_proc", kNoEffect},
    {"preprocessing_num_workers", kNoEffect},
    {"remove_unused_columns", kNoEffect},
    {"local_rank", kNoEffect},
    {"ddp_find_unused_parameters", kNoEffect},
    {"ddp_timeout", kNoEffect},
    {"trust_remote_code", kNoEffect},
    {"use_fast_tokenizer", kNoEffect},
    {"flash_attn", kNoEffect},
    {"attn_implementation", kNoEffect},
    {"gradient_checkpointing_kwargs", kNoEffect},
    {"tf32", kNoEffect},
    {"task_type", kNoEffect},
    {"peft_type", kNoEffect},
    {"stage", "leave it out: lora-train does supervised fine-tuning"},
    {"dataset_dir", "write the whole path as --dataset"},
    {"data_seed", "leave it out: --seed decides the order too"},
    {"max_source_length", kOneLength},
    {"max_target_length", kOneLength},
    {"max_prompt_length", kOneLength},
    {"quantization_method", "leave it out: --quantization_bit and --quantization_type say it"},
    {"bnb_4bit_compute_dtype", "write --dtype"},
    {"push_to_hub", "leave it out: no program opens a connection"},
    {"hub_model_id", "leave it out: no program opens a connection"},
    {"group_by_length", kNotSupported},
    {"packing", kNotSupported},
    {"lr_scheduler_kwargs", kNotSupported},
    {"label_smoothing_factor", kNotSupported},
    {"neftune_noise_alpha", kNotSupported},
    {"deepspeed", kNotSupported},
    {"fsdp", kNotSupported},
    {"use_dora", kNotSupported},
    {"init_lora_weights", kNotSupported},
    {"do_sample", "write --temperature: 0 is greedy, above 0 samples"},
    {"num_beams", kNotSupported},
};

// Values that users of other trainers give to one of our settings.
struct ForeignValue {
  std::string_view name, value;
  const char* advice;
};
inline constexpr ForeignValue kForeignValues[] = {
    {"resume_from_checkpoint", "true", "write auto"},
    {"resume_from_checkpoint", "false", "leave it out"},
    {"gradient_checkpointing", "true", "write full, or auto for the least that fits"},
    {"gradient_checkpointing", "false", "write none"},
    {"gradient_checkpointing", "unsloth", "write full"},
    {"dtype", "half", "write float16"},
    {"dtype", "float", "write float32"},
    {"dtype", "torch.bfloat16", "write bfloat16"},
    {"dtype", "torch.float16", "write float16"},
    {"dtype", "torch.float32", "write float32"},
    {"lr_scheduler_type", "cosine_with_restarts", "write cosine"},
    {"finetuning_type", "freeze", "write lora or full"},
    {"prompt_template", "baichuan", "the template of that name is a chat_template"},
    {"prompt_template", "baichuan2", "the template of that name is a chat_template"},
    {"prompt_template", "llama2", "the template of that name is a chat_template"},
    {"prompt_template", "chatml", "the template of that name is a chat_template"},
    {"prompt_template", "alpaca", "the template of that name is a chat_template"},
    {"prompt_template", "vicuna", "the template of that name is a chat_template"},
};

}  // namespace rankfold
