/* Decodes the part of a JPEG that a crop needs with libjpeg-turbo: turbo.c. */
#ifndef FASTFASHION_TURBO_H
#define FASTFASHION_TURBO_H

#include "native.h"
#include "resample.h"

typedef struct Turbo Turbo;

double now_s(void); /* of a clock that only goes forward */

/* Smallest scale, in eighths, that leaves `oversample` times the output's pixels; libjpeg-turbo is fast (SIMD) only at these four. */
int choose_eighths(const int32_t *box, int height, int width, double oversample);

Turbo *open_turbo(void); /* NULL if there is no memory */
void close_turbo(Turbo *);
size_t turbo_bytes(const Turbo *); /* of its buffers */

/* Whether an Exif segment (its body) says, or could say, that the image must be turned; -1 for a segment that is not Exif. */
int exif_turned(const uint8_t *data, size_t length);

/* Load one image; returns 0, NOT_FOR_US if Python must load it, or NO_MEMORY. `size` is the expected height and width; the time for
 * decoding and resizing is added to seconds[1] and seconds[2]. */
int turbo_load(Turbo *, Resampler *, const uint8_t *encoded, size_t length, const int32_t *box, const int32_t *size, int flip, const Target *,
               double oversample, double *seconds);

#endif
