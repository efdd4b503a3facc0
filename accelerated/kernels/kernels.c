/* All kernels, for float and for double. Nothing here is fused, reordered or approximated (see build.py): a kernel does
   the IEEE operations of the PyTorch code that it stands for, but for the order of sums, which each says. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef long long index_t;

/* Every kernel works on the elements 0..whole - 1 in `parts` parts, of which a call does from..to - 1, each from `begin` to
   `end` - 1: by threads where OpenMP is there, and else one after another. */
#define PARTS index_t whole, index_t parts, index_t from, index_t to
#define IN_PARTS \
  _Pragma("omp parallel for num_threads((int)(to - from)) schedule(static, 1)") \
  for (index_t part = from; part < to; part++) \
    for (index_t begin = whole * part / parts, end = whole * (part + 1) / parts, once = 1; once; once = 0)

#include "whole.h"

#define REAL float
#define INT int32_t
#define NAME(name) name##_float32
#define FLOOR floorf
#define MOVEMASK(v) __builtin_ia32_movmskps256((__attribute__((vector_size(32))) float)(v))
#include "elementwise.h"
#include "event.h"
#undef REAL
#undef INT
#undef NAME
#undef FLOOR
#undef MOVEMASK

#define REAL double
#define INT int64_t
#define NAME(name) name##_float64
#define FLOOR floor
#define MOVEMASK(v) __builtin_ia32_movmskpd256((__attribute__((vector_size(32))) double)(v))
#include "elementwise.h"
#include "event.h"
