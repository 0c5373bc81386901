/* RGB pixels of a whole image from a decoder's planes, bit for bit as libjpeg-turbo makes them: rgb.c. */
#ifndef FASTFASHION_RGB_H
#define FASTFASHION_RGB_H

#include "native.h"

/* Fill `out`, lines of `stride` bytes, with uint8 RGB (height, width, 3) from one plane (gray) or three (Y, Cb, Cr) that hold their whole
 * components. A component of half of luma's height must have half of its width, too. Returns 0 if there is no memory for `lines`. */
int planes_to_rgb(const Plane *planes, int components, uint8_t *out, ptrdiff_t stride, Buffer *lines);

#endif
