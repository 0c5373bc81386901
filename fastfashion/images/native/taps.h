/* Which source pixels an output pixel is made of, and their weights, along one axis: taps.c. */
#ifndef FASTFASHION_TAPS_H
#define FASTFASHION_TAPS_H

#include "native.h"

enum { TRIANGLE, CUBIC }; /* Pillow's BILINEAR and BICUBIC */
enum { WEIGHT_BITS = 14, ONE = 1 << WEIGHT_BITS, KEPT_TAPS = 8 };
enum { OWN_GRID, FANCY, REPLICATED }; /* how a component comes to luma's resolution, if at all: libjpeg's triangle, or each pixel twice */

/* What the taps of an axis depend on, without padding: compared byte by byte. */
typedef struct {
    double from, to; /* the box: 0 <= from < to; pixels that it does not touch have no influence */
    int size;        /* pixels of the output, 1 or more */
    int low, high;   /* source pixels that exist: [low, high) */
    int full;        /* if fancy (or replicated): pixels of the whole component, of which the box sees twice as many */
    int kernel, fancy;
} Axis;

/* Output pixel i is the sum of source pixels start[i] + k times weights[k * axis.size + i], k below count; some weights are 0, and they
 * sum to ONE. Each weight is stored twice in 32 bits, as instructions read it. All these source pixels are in [first, last). */
typedef struct {
    Axis axis;
    Buffer starts, memory;
    int count, first, last;
    int straight; /* output pixel i is source pixel first + i */
    int32_t *start, *weights;
    unsigned used;
} Taps;

/* Taps of the last few axes: images of one size share theirs. */
typedef struct {
    Taps taps[KEPT_TAPS];
    Buffer values;
    unsigned used;
} TapsCache;

/* The taps of an axis, valid until KEPT_TAPS others were found, or NULL if there is no memory. */
const Taps *find_taps(TapsCache *, const Axis *);
void free_taps(TapsCache *);
size_t taps_bytes(const TapsCache *);

#endif
