/* Resizes a box of an image to RGB: resample.c. */
#ifndef FASTFASHION_RESAMPLE_H
#define FASTFASHION_RESAMPLE_H

#include "native.h"
#include "taps.h"

/* Taps and buffers that are kept from image to image. */
typedef struct {
    TapsCache taps;
    Buffer lines[3], turned[3], weights[3], wide[3]; /* of each plane */
} Resampler;

void free_resampler(Resampler *);
size_t resampler_bytes(const Resampler *); /* of its buffers */

/* Resize a box (y0, x0, y1, x1; pixels of the whole, unscaled image) of one plane (gray) or three (Y, Cb, Cr) to RGB, mirrored if `flip`.
 * Planes that are smaller than the box needs give other pixels, but nothing outside of them is read. Returns 0 or NO_MEMORY. */
int resample_planes(Resampler *, const Plane *planes, int count, const double box[4], const Target *, int flip, int kernel);

/* As resample_planes, of RGB lines, all of which must exist that the box touches. Nothing is read past their last pixel. */
int resample_rgb(Resampler *, const uint8_t *source, ptrdiff_t stride, const double box[4], const Target *, int flip, int kernel);

#endif
