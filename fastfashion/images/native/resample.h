/* Resizes a box of an RGB image: resample.c. */
#ifndef FASTFASHION_RESAMPLE_H
#define FASTFASHION_RESAMPLE_H

#include "native.h"

/* The source pixels of an output pixel along one axis: `count` of them from start[i], times weights[i * count ...]. */
typedef struct {
    Buffer memory, reals;
    int count;
    int32_t *start;
    int16_t *weights;
} Taps;

/* Buffers that are kept from image to image. */
typedef struct {
    Taps rows, columns;
    Buffer line, shown, pairs;
} Resampler;

void free_resampler(Resampler *);

/* Resize a box (y0, x0, y1, x1) of RGB lines to a target, mirrored if `flip`. The lines of the box must exist up to the next whole pixel.
 * Returns 0 if there is no memory. */
int resample(Resampler *, const uint8_t *source, ptrdiff_t stride, const double *box, const Target *, int flip);

#endif
