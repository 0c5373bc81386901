/* Resizes a box of an RGB image: a triangle filter along two axes, in whole numbers. */
#include "resample.h"

#include <math.h>

/* Weights sum to ONE; a line between the two axes holds grey levels times 64: 255 * 64 and its product with ONE fit their integers. */
enum { WEIGHT_BITS = 14, ONE = 1 << WEIGHT_BITS, LINE_BITS = 6, BLOCK = 32 };

/* Triangle as wide as an output pixel, at least as a source pixel: Pillow's BILINEAR, torch's and DALI's antialiased linear.
 * The source is [from, to), whose ends need not be whole; pixels outside of it have no influence. Returns 0 if there is no memory. */
static int find_taps(Taps *taps, double from, double to, int size) {
    double scale = (to - from) / size, support = scale > 1 ? scale : 1, narrowing = 1 / support;
    int first = (int)floor(from), last = (int)ceil(to), count = (int)ceil(2 * support);
    if (count > last - first) count = last - first;
    if (!reserve(&taps->memory, size * (sizeof(int32_t) + count * sizeof(int16_t))) || !reserve(&taps->reals, count * sizeof(double))) return 0;
    double *reals = taps->reals.data;
    taps->count = count;
    taps->start = taps->memory.data;
    taps->weights = (int16_t *)(taps->start + size);
    for (int i = 0; i < size; i++) {
        double centre = from + (i + 0.5) * scale, sum = 0;
        int start = (int)(centre - support + 0.5), left = ONE, heaviest = 0; /* below 0 is clipped anyway */
        if (centre - support >= start + 0.5) start++; /* its weight is 0 */
        if (start > last - count) start = last - count;
        if (start < first) start = first;
        for (int k = 0; k < count; k++) {
            double weight = 1 - fabs(start + k + 0.5 - centre) * narrowing;
            sum += reals[k] = weight > 0 ? weight : 0;
            if (reals[k] > reals[heaviest]) heaviest = k;
        }
        int16_t *weights = taps->weights + (size_t)i * count;
        double share = ONE / sum;
        for (int k = 0; k < count; k++) left -= weights[k] = (int16_t)(reals[k] * share + 0.5);
        weights[heaviest] += left;
        taps->start[i] = start;
    }
    return 1;
}

INLINE void blend_block(int16_t *line, const uint8_t *source, ptrdiff_t stride, int width, const int16_t *weights, int count) {
    for (int x = 0; x < width; x++) {
        uint16_t sum = 0;
        for (int k = 0; k < count; k++) sum += (uint16_t)((uint32_t)(source[x + k * stride] << 8) * (uint16_t)weights[k] >> 16);
        line[x] = (int16_t)sum;
    }
}

INLINE void blend(int16_t *line, const uint8_t *source, ptrdiff_t stride, int width, const int16_t *weights, int count) {
    if (width < BLOCK) {
        blend_block(line, source, stride, width, weights, count);
        return;
    }
    for (int x = 0; x + BLOCK <= width; x += BLOCK) blend_block(line + x, source + x, stride, BLOCK, weights, count);
    int last = width - BLOCK; /* the last block overlaps the one before: pixel by pixel, the rest would take longer than all blocks */
    blend_block(line + last, source + last, stride, BLOCK, weights, count);
}

/* One line of the output's height, from `count` lines of the source. The compiler vectorises only loops with a fixed count. */
INLINE void blend_any(int16_t *line, const uint8_t *source, ptrdiff_t stride, int width, const int16_t *weights, int count) {
    switch (count) {
        case 1: blend(line, source, stride, width, weights, 1); return;
        case 2: blend(line, source, stride, width, weights, 2); return;
        case 3: blend(line, source, stride, width, weights, 3); return;
        default: blend(line, source, stride, width, weights, 4);
    }
    for (int k = 4; k < count; k++)
        for (int x = 0; x < width; x++)
            line[x] += (int16_t)((uint32_t)(source[x + k * stride] << 8) * (uint16_t)weights[k] >> 16);
}

FOR_AVX512 static void blend_lines_avx512(int16_t *line, const uint8_t *source, ptrdiff_t stride, int width, const int16_t *weights, int count) {
    blend_any(line, source, stride, width, weights, count);
}

FOR_AVX2 static void blend_lines_avx2(int16_t *line, const uint8_t *source, ptrdiff_t stride, int width, const int16_t *weights, int count) {
    blend_any(line, source, stride, width, weights, count);
}

static void blend_lines(int16_t *line, const uint8_t *source, ptrdiff_t stride, int width, const int16_t *weights, int count) {
    blend_any(line, source, stride, width, weights, count);
}

/* The columns of a line: an output pixel is the sum over pairs of neighbours. The output's width is rounded up to whole groups of four,
 * and the taps are in the order of the output, mirrored or not: start[x]; weights[(pair * width + place) * 8 ...], four times the two
 * weights. Within a group the places are 0, 2, 1, 3, the order in which two registers of two pixels pack into four. */
typedef struct {
    int width, pairs;
    int32_t *start;
    int16_t *weights;
} Pairs;

static int place_in_group(int x) { return (x & ~3) | (x & 1) << 1 | (x & 2) >> 1; }

static int find_pairs(Pairs *pairs, Buffer *memory, const Taps *taps, int width, int flip) {
    pairs->width = (width + 3) & ~3;
    pairs->pairs = (taps->count + 1) / 2;
    size_t size = pairs->width * (sizeof(int32_t) + (size_t)pairs->pairs * 8 * sizeof(int16_t));
    if (!reserve(memory, size)) return 0;
    memset(memory->data, 0, size);
    pairs->start = memory->data;
    pairs->weights = (int16_t *)(pairs->start + pairs->width);
    for (int x = 0; x < width; x++) {
        int i = flip ? width - 1 - x : x;
        pairs->start[x] = taps->start[i] * CHANNELS;
        for (int k = 0; k < taps->count; k++) {
            int16_t *weights = pairs->weights + ((size_t)(k / 2) * pairs->width + place_in_group(x)) * 8 + k % 2;
            for (int channel = 0; channel < 4; channel++) weights[2 * channel] = taps->weights[(size_t)i * taps->count + k];
        }
    }
    return 1;
}

/* Blend the columns of two lines at once, so that weights are read only once for both. */
static void blend_columns(uint8_t *const *shown, int16_t *const *line, const Pairs *pairs) {
    for (int both = 0; both < 2; both++)
        for (int i = 0; i < pairs->width * CHANNELS; i++) {
            int x = i / CHANNELS;
            int32_t sum = 1 << (WEIGHT_BITS + LINE_BITS - 1);
            for (int pair = 0; pair < pairs->pairs; pair++) {
                const int16_t *weights = pairs->weights + ((size_t)pair * pairs->width + place_in_group(x)) * 8;
                const int16_t *pixel = line[both] + pairs->start[x] + 2 * pair * CHANNELS + i % CHANNELS;
                sum += pixel[0] * weights[0] + pixel[CHANNELS] * weights[1];
            }
            shown[both][i] = (uint8_t)(sum >> (WEIGHT_BITS + LINE_BITS));
        }
}

#if defined(__x86_64__) && defined(__GNUC__)
FOR_AVX2 INLINE __m256i two_pixels(const int16_t *a, const int16_t *b) {
    /* r0 g0 b0 r1 g1 b1 … to r0 r1 g0 g1 b0 b1 0 0 */
    const __m256i neighbours = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1));
    __m256i both = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
    both = _mm256_inserti128_si256(both, _mm_loadu_si128((const __m128i *)b), 1);
    return _mm256_shuffle_epi8(both, neighbours);
}

FOR_AVX2 INLINE void store_four(uint8_t *to, __m256i even, __m256i odd) {
    const __m256i three_of_four = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    even = _mm256_srai_epi32(even, WEIGHT_BITS + LINE_BITS);
    odd = _mm256_srai_epi32(odd, WEIGHT_BITS + LINE_BITS);
    __m256i four = _mm256_packs_epi32(even, odd);
    four = _mm256_shuffle_epi8(_mm256_packus_epi16(four, four), three_of_four);
    _mm_storel_epi64((__m128i *)to, _mm256_castsi256_si128(four));
    _mm_storel_epi64((__m128i *)(to + 2 * CHANNELS), _mm256_extracti128_si256(four, 1));
}

FOR_AVX2 static void blend_columns_avx2(uint8_t *const *shown, int16_t *const *line, const Pairs *pairs) {
    const __m256i half = _mm256_set1_epi32(1 << (WEIGHT_BITS + LINE_BITS - 1));
    for (int x = 0; x < pairs->width; x += 4) {
        __m256i even[2] = {half, half}, odd[2] = {half, half};
        const int32_t *start = pairs->start + x;
        for (int pair = 0; pair < pairs->pairs; pair++) {
            const __m256i *weights = (const __m256i *)(pairs->weights + ((size_t)pair * pairs->width + x) * 8);
            __m256i first = _mm256_loadu_si256(weights), second = _mm256_loadu_si256(weights + 1);
            for (int both = 0; both < 2; both++) {
                const int16_t *from = line[both] + 2 * pair * CHANNELS;
                even[both] = _mm256_add_epi32(even[both], _mm256_madd_epi16(two_pixels(from + start[0], from + start[2]), first));
                odd[both] = _mm256_add_epi32(odd[both], _mm256_madd_epi16(two_pixels(from + start[1], from + start[3]), second));
            }
        }
        for (int both = 0; both < 2; both++) store_four(shown[both] + x * CHANNELS, even[both], odd[both]);
    }
}
#else
#define blend_columns_avx2 blend_columns
#endif

typedef void LineBlend(int16_t *, const uint8_t *, ptrdiff_t, int, const int16_t *, int);
typedef void ColumnBlend(uint8_t *const *, int16_t *const *, const Pairs *);

/* Resize a box (y0, x0, y1, x1) of RGB lines to a target, mirrored if `flip`. The lines of the box must exist up to the next whole pixel.
 * Returns 0 if there is no memory. */
int resample(Resampler *s, const uint8_t *source, ptrdiff_t stride, const double *box, const Target *target, int flip) {
    int height = target->height, width = target->width;
    int left = (int)floor(box[1]), columns = (int)ceil(box[3]) - left, in_line = (columns + 2) * CHANNELS;
    Pairs pairs;
    if (!find_taps(&s->rows, box[0], box[2], height) || !find_taps(&s->columns, box[1] - left, box[3] - left, width)) return 0;
    if (!find_pairs(&pairs, &s->pairs, &s->columns, width, flip)) return 0;
    /* Whole registers are read and written: a pixel of weight 0 and two channels past the last, and two bytes past the last. */
    int in_shown = pairs.width * CHANNELS + 2;
    if (!reserve(&s->line, 2 * in_line * sizeof(int16_t)) || !reserve(&s->shown, 2 * in_shown)) return 0;
    int16_t *line[2] = {s->line.data, (int16_t *)s->line.data + in_line};
    uint8_t *shown[2] = {s->shown.data, (uint8_t *)s->shown.data + in_shown};
    for (int both = 0; both < 2; both++) memset(line[both] + columns * CHANNELS, 0, 2 * CHANNELS * sizeof(int16_t));
    LineBlend *blend_line = HAS_AVX512 ? blend_lines_avx512 : HAS_AVX2 ? blend_lines_avx2 : blend_lines;
    ColumnBlend *blend_both = HAS_AVX2 ? blend_columns_avx2 : blend_columns;
    for (int y = 0; y < height; y += 2) {
        int lines = y + 1 < height ? 2 : 1;
        for (int i = 0; i < lines; i++) {
            const uint8_t *from = source + s->rows.start[y + i] * stride + left * CHANNELS;
            const int16_t *down = s->rows.weights + (size_t)(y + i) * s->rows.count;
            int count = s->rows.count;
            while (count > 1 && down[count - 1] == 0) count--;
            blend_line(line[i], from, stride, columns * CHANNELS, down, count);
        }
        blend_both(shown, line, &pairs);
        for (int i = 0; i < lines; i++) memcpy(target->out + (y + i) * target->stride, shown[i], width * CHANNELS);
    }
    return 1;
}

void free_resampler(Resampler *s) {
    Buffer *all[] = {&s->rows.memory, &s->rows.reals, &s->columns.memory, &s->columns.reals, &s->line, &s->shown,
                     &s->pairs};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]->data);
}

size_t resampler_bytes(const Resampler *s) {
    return s->rows.memory.size + s->rows.reals.size + s->columns.memory.size + s->columns.reals.size + s->line.size + s->shown.size + s->pairs.size;
}

int resample_planes(Resampler *s, const Plane *planes, int count, const double box[4], const Target *target, int flip, int kernel) {
    (void)s, (void)planes, (void)count, (void)box, (void)target, (void)flip, (void)kernel;
    return NO_MEMORY; /* to come */
}

int resample_rgb(Resampler *s, const uint8_t *source, ptrdiff_t stride, const double box[4], const Target *target, int flip, int kernel) {
    (void)kernel; /* to come */
    return resample(s, source, stride, box, target, flip) ? 0 : NO_MEMORY;
}
