/* The seek table of an image, as a set has it on the disk: seek.c. */
#ifndef FASTFASHION_SEEK_H
#define FASTFASHION_SEEK_H

#include "jpeg.h"

enum { SEEK_NEAR = 8 }; /* MCUs between the marks of an entry, or twice, four times, … as many (bench/LOG.md) */

/* Whether marks pay in an image with this number of MCUs across. */
int seek_is_wide(int across);

/* Write the entry of an image to `out`, which has room for `limit` bytes: from `marks`, those of every SEEK_NEAR-th MCU, `count` of
 * them. Returns its size, or 0 if there is none: it would be larger than `limit`. */
size_t seek_pack(const Mark *marks, size_t count, size_t limit, uint8_t *out);

/* The number of marks in an entry, and the marks. Bytes that are no entry have none; whatever the bytes are, MCUs ascend from 1,
 * bits never descend, and predictors have 16 bits. `seek_unpack` returns how many it wrote: at most `most`. */
size_t seek_count(const uint8_t *entry, size_t size);
size_t seek_unpack(const uint8_t *entry, size_t size, Mark *marks, size_t most);

/* The entry of an image within the table of its shard, by its place there; returns its size, 0 if there is none. */
size_t seek_find(const uint8_t *table, size_t size, size_t place, const uint8_t **entry);

#endif
