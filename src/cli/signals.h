// Signals of a program that must finish its work in order before it ends.
#pragma once

#include "rankfold/error.h"

namespace rankfold {

// Call both before the program starts any thread. hold_signals blocks SIGINT, SIGTERM and SIGUSR1 in all threads; they
// stay pending while the program starts itself again. note_signals starts a thread that waits for them. A SIGINT 250 ms
// or more after an earlier SIGINT or SIGTERM ends the process at once. A signal that was ignored when the process
// started stays ignored. SIGHUP is ignored, so that a run outlives its terminal.
//
// A signal handler on a computing thread would corrupt memory. Code that oneDNN generates for products with a
// transposed matrix keeps data where the handler's stack frame is written (torch 2.11, AVX-512; seen as heap
// corruption).
void hold_signals();
void note_signals();
bool stop_requested();     // usable as a Stop: SIGINT or SIGTERM was received
bool take_save_request();  // SIGUSR1 was received since the last call

// A conversation: from now on SIGINT stops an answer, not the program.
void take_interrupts();
bool take_interrupt();  // SIGINT was received since the last call

// The error "stopped by SIGTERM" with its exit code, for a job that has stopped. Call it only after stop_requested().
Error stopped_by_signal();

// If another process truncates a mapped file, the process ends with exit code 5 and one line that names the file. It
// cannot continue, because SIGBUS may come in the middle of a product.
void report_lost_mappings(const char* program);

}  // namespace rankfold
