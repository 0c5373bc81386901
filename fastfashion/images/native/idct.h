/* The inverse DCT of blocks at four sizes: idct.c. */
#ifndef FASTFASHION_IDCT_H
#define FASTFASHION_IDCT_H

#include "native.h"

enum { BLOCK = 64 };

/* A block to be made into pixels: 64 coefficients and what each is multiplied with, in natural order, both at addresses of whole 16 bytes;
 * and where its first pixel goes, lines `stride` bytes apart. */
typedef struct {
    const int16_t *coefficients, *quant;
    uint8_t *to;
    ptrdiff_t stride;
} Block;

/* Make blocks of size 8, 4 or 2. */
void idct(int size, const Block *blocks, int count);

/* Make a block of size 8, 4, 2 or 1 that has no coefficient but the first. */
void fill_block(int size, int first, uint8_t *to, ptrdiff_t stride);

#endif
