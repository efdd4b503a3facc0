/* All kernels, for float and for double. Nothing here is fused, reordered or approximated (see build.py): a kernel does
   the IEEE operations of the PyTorch code that it stands for, but for the order of sums, which each says. */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef long long index_t;

#define REAL float
#define NAME(name) name##_float32
#define FLOOR floorf
#include "elementwise.h"
#include "event.h"
#undef REAL
#undef NAME
#undef FLOOR

#define REAL double
#define NAME(name) name##_float64
#define FLOOR floor
#include "elementwise.h"
#include "event.h"
