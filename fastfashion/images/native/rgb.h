/* RGB pixels of an image, or a part of it, from a decoder's planes, bit for bit as libjpeg-turbo makes them: rgb.c. */
#ifndef FASTFASHION_RGB_H
#define FASTFASHION_RGB_H

#include "native.h"

/* Fill `out`, lines of `stride` bytes, with uint8 RGB of a box (y0, x0, y1, x1, in pixels of luma at its scale) from one plane (gray) or three
 * (Y, Cb, Cr), which hold what the box needs. A component of half of luma's height must have half of its width, too. Returns 0 if there is
 * no memory for `lines`. */
int planes_to_rgb(const Plane *planes, int components, const int box[4], uint8_t *out, ptrdiff_t stride, Buffer *lines);

#endif
