// Signals of a program that has something to finish first.
#pragma once

#include "rankfold/error.h"

namespace rankfold {

// Both before anything else of a program starts a thread. SIGINT, SIGTERM and SIGUSR1 are held back from all threads (and
// kept while the program starts itself again), then noted by a thread of their own; a SIGINT that comes a quarter of a
// second or more after one of the first two ends the process at once. What the process was started to ignore it ignores.
// SIGHUP is ignored, so that a run outlives the
// terminal it was started from.
//
// A handler on a thread that computes would do harm: code that oneDNN makes for products with a transposed matrix keeps
// data where the frame of a handler comes to lie (torch 2.11, AVX-512; seen as a broken heap).
void hold_signals();
void note_signals();
bool stop_requested();     // a Stop: SIGINT or SIGTERM has come
bool take_save_request();  // SIGUSR1 has come since the last call

// A conversation: from now on SIGINT stops an answer, not the program.
void take_interrupts();
bool take_interrupt();  // SIGINT has come since the last call

// "stopped by SIGTERM" with its exit code, for a job that has left off; none of the two noted: a defect.
Error stopped_by_signal();

// A mapped file that another process makes shorter ends the process with one line that names it, and exit code 5:
// there is no way back from SIGBUS in the middle of a product.
void report_lost_mappings(const char* program);

}  // namespace rankfold
