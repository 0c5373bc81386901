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
size_t resampler_bytes(const Resampler *); /* of its buffers */

/* Resize a box (y0, x0, y1, x1) of RGB lines to a target, mirrored if `flip`. The lines of the box must exist up to the next whole pixel.
 * Returns 0 if there is no memory. */
int resample(Resampler *, const uint8_t *source, ptrdiff_t stride, const double *box, const Target *, int flip);

enum { TRIANGLE, CUBIC }; /* Pillow's BILINEAR and BICUBIC */

/* Resize a box (y0, x0, y1, x1; pixels of the whole, unscaled image) of one plane (gray) or three (Y, Cb, Cr) to RGB, mirrored if `flip`.
 * Returns 0 or NO_MEMORY. */
int resample_planes(Resampler *, const Plane *planes, int count, const double box[4], const Target *, int flip, int kernel);

/* As resample_planes, of RGB lines, all of which must exist that the box touches. Nothing is read past their last pixel. */
int resample_rgb(Resampler *, const uint8_t *source, ptrdiff_t stride, const double box[4], const Target *, int flip, int kernel);

#endif
