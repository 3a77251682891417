// A libcuda.so.1 of a machine without a device for us, as CMakeLists.txt says: in place of the machine's own.
#ifdef DRIVER_INIT
#define DRIVER_EXPORT __attribute__((visibility("default")))
extern "C" {
DRIVER_EXPORT int cuInit(unsigned);
DRIVER_EXPORT int cuDeviceGetCount(int*);
int cuInit(unsigned) { return DRIVER_INIT; }
int cuDeviceGetCount(int* count) { return *count = DRIVER_COUNT, 0; }
}
#endif
