// Signals of a program that has something to finish first.
#pragma once

#include "rankfold/error.h"

namespace rankfold {

// From now on SIGINT and SIGTERM are noted, and a SIGINT after one of them ends the process at once; SIGUSR1 is noted;
// SIGHUP is ignored, so that a run outlives the terminal it was started from.
void note_signals();
bool stop_requested();     // a Stop: SIGINT or SIGTERM has come
bool take_save_request();  // SIGUSR1 has come since the last call

// "stopped by SIGTERM" with its exit code, for a job that has left off; none of the two noted: a defect.
Error stopped_by_signal();

// A mapped file that another process makes shorter ends the process with one line that names it, and exit code 5:
// there is no way back from SIGBUS in the middle of a product.
void report_lost_mappings(const char* program);

}  // namespace rankfold
