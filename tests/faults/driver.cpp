// A libcuda.so.1 that has no device for us, as CMakeLists.txt says: in place of the machine's own.
#ifdef DRIVER_INIT
extern "C" {
int cuInit(unsigned);
int cuDeviceGetCount(int*);
int cuInit(unsigned) { return DRIVER_INIT; }
int cuDeviceGetCount(int* count) { return *count = 0; }
}
#endif
