// Whether this build has the sanitizers in it: they take memory and time of their own, and loops under them are not
// split into lanes.
#pragma once

namespace rankfold::testing {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

#ifdef __SANITIZE_THREAD__
inline constexpr bool kThreadSanitized = true;  // cannot follow the child of a process that has several threads
#else
inline constexpr bool kThreadSanitized = false;
#endif

}  // namespace rankfold::testing
