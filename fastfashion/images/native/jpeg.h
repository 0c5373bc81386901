/* A decoder of our own for plain baseline JPEGs, which decodes only the part that a box needs: jpeg.c. */
#ifndef FASTFASHION_JPEG_H
#define FASTFASHION_JPEG_H

#include "native.h"

typedef struct Jpeg Jpeg;

/* A place in a scan from which decoding can start: the number of an MCU in the order of the scan, the bits from the first byte of the scan's
 * data, as they are in the file, to its own, and what its DC differences are added to. */
typedef struct {
    int32_t mcu, bit, dc[3];
} Mark;

typedef struct {
    const Mark *marks; /* in the order of the scan */
    size_t count;
} Marks;

/* What baseline_read_header found. An MCU has `across` times `down` blocks of luma, and one of each chroma component. */
typedef struct {
    int height, width, components;
    int across, down;
    int mcus_across, mcus_down;
    int restarts; /* MCUs between restart markers, or 0 */
    int turned;   /* Exif says that the image must be turned, or could say so */
} JpegHeader;

Jpeg *open_baseline(void); /* NULL if there is no memory */
void close_baseline(Jpeg *);
size_t baseline_bytes(const Jpeg *); /* that its buffers hold */

/* Read the header of an image, whose bytes must stay until it is decoded. Returns 0, NOT_FOR_US if libjpeg-turbo must decode it, or NO_MEMORY. */
int baseline_read_header(Jpeg *, const uint8_t *data, size_t size);
const JpegHeader *baseline_header(const Jpeg *);

/* Decode what a box (y0, x0, y1, x1, in pixels of the whole image, inside of it) needs at 1, 2, 4 or 8 eighths of the size: one plane for each
 * component, which stay until the next call. Returns 0, NOT_FOR_US if the data are damaged, or NO_MEMORY. */
int baseline_decode(Jpeg *, int eighths, const int32_t *box, const Marks *, Plane *planes);

/* Whether what was decoded last was a whole image, whose end (EOI) follows its last code. */
int baseline_is_whole(Jpeg *);

/* Find the marks of every n-th MCU of an image whose header was read, n being `every`, 1 or more, from the n-th on: (MCUs - 1) / n of them, for which
 * there is room. Returns their number, 0 for an image with restart markers, or -NOT_FOR_US for one that is damaged. */
int baseline_find_marks(Jpeg *, int every, Mark *marks);

#endif
