// Compiled once for the library: most files need it. What a header adds here every file pays for again, in templates that
// are instantiated anew; so what few files need is not here.
#include <ATen/ATen.h>
