/* Decodes the part of a JPEG that a crop needs, and resizes it: whole chunks of images, without Python's lock.
 *
 *   encoded ─► header ─► scale n/8 ─► skip to the box's lines and columns ─► RGB ─► triangle filter, two axes ─► flip ─► place in out
 *
 * Built if a C compiler and libjpeg-turbo's headers are available; load/crops.py does the same without it, more slowly.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION_NUMBER
#error "jpeg_crop_scanline and jpeg_skip_scanlines need libjpeg-turbo 1.5 or later"
#endif

/* Pixels are computed with integers only, so that they are the same on every machine, with AVX2 and without. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAS_AVX2 __builtin_cpu_supports("avx2")
#define HAS_AVX512 __builtin_cpu_supports("avx512bw")
#define FOR_AVX2 __attribute__((target("avx2")))
#define FOR_AVX512 __attribute__((target("avx512bw,prefer-vector-width=512")))
#else
#define HAS_AVX2 0
#define HAS_AVX512 0
#define FOR_AVX2
#define FOR_AVX512
#endif
#define INLINE static inline __attribute__((always_inline))

enum { CHANNELS = 3, MARGIN_PX = 4, EXIF_MARKER = JPEG_APP0 + 1, NOT_FOR_US = 1, NO_MEMORY = 2 };
#define WORTH_CROPPING 0.6
/* Weights sum to ONE; a line between the two axes holds grey levels times 64: 255 * 64 and its product with ONE fit their integers. */
enum { WEIGHT_BITS = 14, ONE = 1 << WEIGHT_BITS, LINE_BITS = 6, BLOCK = 32 };

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* A buffer that only grows. `reserve` returns 0 if there is no memory. */
typedef struct {
    void *data;
    size_t size;
} Buffer;

static int reserve(Buffer *buffer, size_t size) {
    if (buffer->size < size) {
        free(buffer->data);
        buffer->data = malloc(size);
        buffer->size = buffer->data ? size : 0;
    }
    return buffer->data != NULL;
}

/* The source pixels of an output pixel along one axis: `count` of them from start[i], times weights[i * count ...]. */
typedef struct {
    Buffer memory, reals;
    int count;
    int32_t *start;
    int16_t *weights;
} Taps;

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

typedef struct {
    Taps rows, columns;
    Buffer line, shown, pairs;
    Buffer decoded, pointers;
} Scratch;

static void free_scratch(Scratch *s) {
    Buffer *all[] = {&s->rows.memory, &s->rows.reals, &s->columns.memory, &s->columns.reals, &s->line, &s->shown,
                     &s->pairs,       &s->decoded,    &s->pointers};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]->data);
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

/* Where an image is shown: all of `out`, or the part of it that a place (y0, x0, y1, x1) names; lines are `stride` bytes apart. */
typedef struct {
    uint8_t *out;
    ptrdiff_t stride;
    int height, width;
} Target;

static Target find_target(uint8_t *out, int height, int width, const int32_t *place) {
    Target all = {out, (ptrdiff_t)width * CHANNELS, height, width};
    if (!place) return all;
    Target part = {out + place[0] * all.stride + place[1] * CHANNELS, all.stride, place[2] - place[0], place[3] - place[1]};
    return part;
}

static void fill_pixels(uint8_t *to, const uint8_t *end, const uint8_t *colour) {
    for (; to < end; to += CHANNELS) memcpy(to, colour, CHANNELS);
}

/* Paint everything around a place of one output image. */
static void fill_around(uint8_t *out, int height, int width, const int32_t *place, const uint8_t *colour) {
    ptrdiff_t stride = (ptrdiff_t)width * CHANNELS;
    fill_pixels(out, out + place[0] * stride, colour);
    for (int y = place[0]; y < place[2]; y++) {
        uint8_t *line = out + y * stride;
        fill_pixels(line, line + place[1] * CHANNELS, colour);
        fill_pixels(line + place[3] * CHANNELS, line + stride, colour);
    }
    fill_pixels(out + place[2] * stride, out + height * stride, colour);
}

typedef void LineBlend(int16_t *, const uint8_t *, ptrdiff_t, int, const int16_t *, int);
typedef void ColumnBlend(uint8_t *const *, int16_t *const *, const Pairs *);

/* Resize a box (y0, x0, y1, x1) of RGB lines to a target, mirrored if `flip`. The lines of the box must exist up to the next whole pixel.
 * Returns 0 if there is no memory. */
static int resample(Scratch *s, const uint8_t *source, ptrdiff_t stride, const double *box, const Target *target, int flip) {
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

/* libjpeg's errors return here instead of ending the process. */
typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf back;
} Errors;

static void jump_back(j_common_ptr jpeg) { longjmp(((Errors *)jpeg->err)->back, 1); }
static void say_nothing(j_common_ptr jpeg) { (void)jpeg; }

static unsigned read_number(const uint8_t *at, int bytes, int big) {
    unsigned value = 0;
    for (int i = 0; i < bytes; i++) value |= (unsigned)at[big ? bytes - 1 - i : i] << 8 * i;
    return value;
}

/* Whether Exif says, or could say, that the image must be turned. */
static int is_turned(const struct jpeg_decompress_struct *jpeg) {
    for (jpeg_saved_marker_ptr marker = jpeg->marker_list; marker; marker = marker->next) {
        const uint8_t *data = marker->data;
        unsigned length = marker->data_length;
        if (length < 6 || memcmp(data, "Exif\0", 6)) continue;
        data += 6, length -= 6;
        if (length < 8) return 1;
        int big = data[0] == 'M';
        unsigned directory = read_number(data + 4, 4, big);
        if (directory > length || length - directory < 2) return 1;
        unsigned entries = read_number(data + directory, 2, big);
        for (unsigned i = 0; i < entries; i++) {
            if (length - directory < 2 + 12 * (i + 1)) return 1;
            const uint8_t *entry = data + directory + 2 + 12 * i;
            if (read_number(entry, 2, big) == 0x0112 && read_number(entry + 8, 2, big) != 1) return 1;
        }
        return 0;
    }
    return 0;
}

/* Smallest scale, in eighths, that leaves `oversample` times the output's pixels; libjpeg-turbo is fast (SIMD) only at these four. */
static int choose_eighths(const int32_t *box, int height, int width, double oversample) {
    for (int eighths = 1; eighths < 8; eighths *= 2)
        if ((box[2] - box[0]) * eighths >= 8 * oversample * height && (box[3] - box[1]) * eighths >= 8 * oversample * width) return eighths;
    return 8;
}

/* The frames that jpeg_header.py lists, whatever an index says: others have wrong pixels in a part (chroma 4x2 or 2x4), or unknown colours. */
static int is_usual(const struct jpeg_decompress_struct *jpeg) {
    if (jpeg->data_precision != 8 || jpeg->arith_code) return 0;
    const jpeg_component_info *part = jpeg->comp_info;
    if (jpeg->num_components == 1) return jpeg->jpeg_color_space == JCS_GRAYSCALE && part->h_samp_factor == 1 && part->v_samp_factor == 1;
    if (jpeg->num_components != 3 || jpeg->jpeg_color_space != JCS_YCbCr) return 0;
    for (int i = 1; i < 3; i++)
        if (part[i].h_samp_factor != 1 || part[i].v_samp_factor != 1) return 0;
    return part->h_samp_factor <= 2 && part->v_samp_factor <= part->h_samp_factor; /* 4:4:4, 4:2:2, 4:2:0 */
}

typedef struct {
    int height, width;
    double oversample;
    const int32_t *places; /* four an image, or NULL: each fills its output image */
    const uint8_t *colour; /* of what is around a place */
} Wanted;

/* Load one image; returns 0, NOT_FOR_US if Python must load it, or NO_MEMORY. `size` is the expected height and width. */
static int load_one(struct jpeg_decompress_struct *jpeg, Errors *errors, Scratch *s, const Py_buffer *encoded, const int32_t *box,
                    const int32_t *size, int flip, const Target *target, double oversample, double *seconds) {
    double started = now_s();
    unsigned touched = 0;
    for (Py_ssize_t at = 0; at < encoded->len; at += 4096) touched += ((const volatile uint8_t *)encoded->buf)[at];
    (void)touched;
    double read = now_s();
    seconds[0] += read - started;
    if (setjmp(errors->back)) {
        jpeg_abort_decompress(jpeg);
        return NOT_FOR_US;
    }
    errors->base.num_warnings = 0;
    jpeg_mem_src(jpeg, encoded->buf, encoded->len);
    jpeg_read_header(jpeg, TRUE);
    if (!is_usual(jpeg) || (int)jpeg->image_height != size[0] || (int)jpeg->image_width != size[1] || is_turned(jpeg)) {
        jpeg_abort_decompress(jpeg);
        return NOT_FOR_US;
    }
    int eighths = choose_eighths(box, target->height, target->width, oversample);
    jpeg->scale_num = eighths;
    jpeg->scale_denom = 8;
    jpeg->out_color_space = JCS_RGB;
    jpeg_start_decompress(jpeg);
    double inner[4];
    for (int i = 0; i < 4; i++) inner[i] = box[i] * eighths / 8.0;
    JDIMENSION top = (JDIMENSION)inner[0], bottom = (JDIMENSION)ceil(inner[2]), left = (JDIMENSION)inner[1];
    /* Chroma is interpolated between neighbours, which are missing at the edge of the decoded part. */
    left = left > MARGIN_PX ? left - MARGIN_PX : 0;
    JDIMENSION columns = (JDIMENSION)ceil(inner[3]) + MARGIN_PX - left;
    if (left + columns > jpeg->output_width) columns = jpeg->output_width - left;
    if (columns > WORTH_CROPPING * jpeg->output_width) /* cropping costs a tenth of the decoding time, and saves less than its share */
        left = 0, columns = jpeg->output_width;
    else
        jpeg_crop_scanline(jpeg, &left, &columns);
    size_t stride = (size_t)columns * CHANNELS, lines = bottom - top;
    if (!reserve(&s->decoded, stride * lines) || !reserve(&s->pointers, lines * sizeof(JSAMPROW))) {
        jpeg_abort_decompress(jpeg);
        return NO_MEMORY;
    }
    JSAMPROW *rows = s->pointers.data;
    for (size_t y = 0; y < lines; y++) rows[y] = (uint8_t *)s->decoded.data + y * stride;
    if (top) jpeg_skip_scanlines(jpeg, top);
    while (jpeg->output_scanline < bottom) jpeg_read_scanlines(jpeg, rows + (jpeg->output_scanline - top), bottom - jpeg->output_scanline);
    int damaged = errors->base.num_warnings > 0;
    jpeg_abort_decompress(jpeg); /* the lines below the box need not be decoded */
    double decoded = now_s();
    seconds[1] += decoded - read;
    if (damaged) return NOT_FOR_US;
    for (int i = 0; i < 4; i++) inner[i] -= i % 2 ? left : top;
    if (!resample(s, s->decoded.data, stride, inner, target, flip)) return NO_MEMORY;
    seconds[2] += now_s() - decoded;
    return 0;
}

static void load_all(const Py_buffer *encoded, Py_ssize_t count, const int32_t *boxes, const int32_t *sizes, const uint8_t *flips,
                     const Wanted *wanted, uint8_t *out, uint8_t *status, double *seconds) {
    struct jpeg_decompress_struct jpeg;
    Errors errors;
    Scratch scratch = {0};
    jpeg.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = jump_back;
    errors.base.output_message = say_nothing;
    if (setjmp(errors.back)) { /* libjpeg has no memory */
        memset(status, NO_MEMORY, count);
        return;
    }
    jpeg_create_decompress(&jpeg);
    jpeg_save_markers(&jpeg, EXIF_MARKER, 0xFFFF);
    size_t bytes = (size_t)wanted->height * wanted->width * CHANNELS;
    for (Py_ssize_t i = 0; i < count; i++) {
        const int32_t *place = wanted->places ? wanted->places + 4 * i : NULL;
        Target target = find_target(out + i * bytes, wanted->height, wanted->width, place);
        status[i] = load_one(&jpeg, &errors, &scratch, encoded + i, boxes + 4 * i, sizes + 2 * i, flips[i], &target, wanted->oversample, seconds);
        if (place) fill_around(out + i * bytes, wanted->height, wanted->width, place, wanted->colour);
    }
    jpeg_destroy_decompress(&jpeg);
    free_scratch(&scratch);
}

/* The buffers of an argument list, released together; `hold` checks the size in bytes unless it is below 0. */
typedef struct {
    Py_buffer views[8];
    int held;
} Held;

static void *hold(Held *held, PyObject *object, const char *name, Py_ssize_t size, int writable) {
    Py_buffer *view = &held->views[held->held];
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) < 0) return NULL;
    held->held++;
    if (size >= 0 && view->len != size) {
        PyErr_Format(PyExc_ValueError, "%s: expected %zd bytes, found %zd", name, size, view->len);
        return NULL;
    }
    return view->buf;
}

static void release(Held *held) {
    while (held->held) PyBuffer_Release(&held->views[--held->held]);
}

/* Python passes boxes inside of images; any other box would read or write outside of them. */
static int check_box(const char *name, Py_ssize_t i, const int32_t *box, int height, int width) {
    if (box[0] >= 0 && box[1] >= 0 && box[0] < box[2] && box[1] < box[3] && box[2] <= height && box[3] <= width) return 1;
    PyErr_Format(PyExc_ValueError, "%s %zd: expected y0 < y1 <= %d and x0 < x1 <= %d, found %d, %d, %d, %d", name, i, height, width, box[0],
                 box[1], box[2], box[3]);
    return 0;
}

static int check_boxes(const int32_t *boxes, const int32_t *sizes, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++)
        if (!check_box("box", i, boxes + 4 * i, sizes[2 * i], sizes[2 * i + 1])) return 0;
    return 1;
}

/* Places and their colour, which are both None or both arrays. Returns 0 if they are not what `count` images need. */
static int hold_places(Held *held, PyObject *places_o, PyObject *colour_o, Py_ssize_t count, Wanted *wanted) {
    wanted->places = NULL, wanted->colour = NULL;
    if (places_o == Py_None) return 1;
    if (!(wanted->places = hold(held, places_o, "places", count * 16, 0)) || !(wanted->colour = hold(held, colour_o, "colour", CHANNELS, 0)))
        return 0;
    for (Py_ssize_t i = 0; i < count; i++)
        if (!check_box("place", i, wanted->places + 4 * i, wanted->height, wanted->width)) return 0;
    return 1;
}

static PyObject *load_crops(PyObject *module, PyObject *args) {
    PyObject *list, *boxes_o, *sizes_o, *flips_o, *out_o, *status_o, *seconds_o, *places_o = Py_None, *colour_o = Py_None, *result = NULL;
    Wanted wanted;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!OOOOiidOO|OO", &PyList_Type, &list, &boxes_o, &sizes_o, &flips_o, &out_o, &wanted.height, &wanted.width,
                          &wanted.oversample, &status_o, &seconds_o, &places_o, &colour_o))
        return NULL;
    Py_ssize_t count = PyList_Size(list), opened = 0;
    Held held = {.held = 0};
    Py_buffer *encoded = PyMem_Calloc(count ? count : 1, sizeof *encoded);
    if (!encoded) return PyErr_NoMemory();
    int32_t *boxes, *sizes;
    uint8_t *flips, *out, *status;
    double *seconds;
    if (!(boxes = hold(&held, boxes_o, "boxes", count * 16, 0)) || !(sizes = hold(&held, sizes_o, "sizes", count * 8, 0)) ||
        !(flips = hold(&held, flips_o, "flips", count, 0)) ||
        !(out = hold(&held, out_o, "out", count * wanted.height * wanted.width * CHANNELS, 1)) ||
        !(status = hold(&held, status_o, "status", count, 1)) || !(seconds = hold(&held, seconds_o, "seconds", 3 * sizeof(double), 1)) ||
        !check_boxes(boxes, sizes, count) || !hold_places(&held, places_o, colour_o, count, &wanted))
        goto done;
    for (; opened < count; opened++)
        if (PyObject_GetBuffer(PyList_GetItem(list, opened), encoded + opened, PyBUF_C_CONTIGUOUS) < 0) goto done;
    Py_BEGIN_ALLOW_THREADS
    load_all(encoded, count, boxes, sizes, flips, &wanted, out, status, seconds);
    Py_END_ALLOW_THREADS
    result = memchr(status, NO_MEMORY, count) ? PyErr_NoMemory() : Py_NewRef(Py_None);
done:
    while (opened) PyBuffer_Release(encoded + --opened);
    PyMem_Free(encoded);
    release(&held);
    return result;
}

static PyObject *resize_crops(PyObject *module, PyObject *args) {
    PyObject *source_o, *index_o, *boxes_o, *flips_o, *out_o, *places_o = Py_None, *colour_o = Py_None, *result = NULL;
    int source_height, source_width;
    Wanted wanted;
    Py_ssize_t count;
    (void)module;
    if (!PyArg_ParseTuple(args, "OiiOOOOnii|OO", &source_o, &source_height, &source_width, &index_o, &boxes_o, &flips_o, &out_o, &count,
                          &wanted.height, &wanted.width, &places_o, &colour_o))
        return NULL;
    Held held = {.held = 0};
    Scratch scratch = {0};
    uint8_t *source, *flips, *out;
    int64_t *index;
    int32_t *boxes;
    if (!(source = hold(&held, source_o, "source", -1, 0)) || !(index = hold(&held, index_o, "index", count * 8, 0)) ||
        !(boxes = hold(&held, boxes_o, "boxes", count * 16, 0)) || !(flips = hold(&held, flips_o, "flips", count, 0)) ||
        !(out = hold(&held, out_o, "out", count * wanted.height * wanted.width * CHANNELS, 1)) ||
        !hold_places(&held, places_o, colour_o, count, &wanted))
        goto done;
    size_t image = (size_t)source_height * source_width * CHANNELS, shown = (size_t)wanted.height * wanted.width * CHANNELS;
    int64_t images = image ? held.views[0].len / (Py_ssize_t)image : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!check_box("box", i, boxes + 4 * i, source_height, source_width)) goto done;
        if (index[i] < 0 || index[i] >= images) {
            PyErr_Format(PyExc_ValueError, "index %zd: expected 0 or more and below %lld, found %lld", i, (long long)images, (long long)index[i]);
            goto done;
        }
    }
    int ok = 1;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count && ok; i++) {
        double box[4];
        for (int k = 0; k < 4; k++) box[k] = boxes[4 * i + k];
        const int32_t *place = wanted.places ? wanted.places + 4 * i : NULL;
        Target target = find_target(out + i * shown, wanted.height, wanted.width, place);
        ok = resample(&scratch, source + index[i] * image, (ptrdiff_t)source_width * CHANNELS, box, &target, flips[i]);
        if (place) fill_around(out + i * shown, wanted.height, wanted.width, place, wanted.colour);
    }
    Py_END_ALLOW_THREADS
    result = ok ? Py_NewRef(Py_None) : PyErr_NoMemory();
done:
    free_scratch(&scratch);
    release(&held);
    return result;
}

static PyMethodDef methods[] = {
    {"load_crops", load_crops, METH_VARARGS, "Decode and resize boxes of JPEGs; see load/crops.py."},
    {"resize_crops", resize_crops, METH_VARARGS, "Resize boxes of decoded images; see load/crops.py."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&definition); }
