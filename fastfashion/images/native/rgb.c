/* RGB pixels of an image, or a part of it, from a decoder's planes, bit for bit as libjpeg-turbo makes them.
 *
 *   Y, Cb, Cr ─► chroma of half the size: triangle filter, or copies where libjpeg copies (jdsample.c) ─► RGB (jdcolor.c)
 *
 * Lines of chroma are enlarged one at a time into buffers that stay in the cache. */
#include "rgb.h"

enum { SIDES = 32 }; /* free values before and behind a line of sums: its ends have neighbours, and loops may run in whole vectors */

/* Sums of 3 near + far of two lines of chroma, 4 times as large as pixels: at most 1,020. */
INLINE void add_lines(uint16_t *restrict sums, const uint8_t *restrict near, const uint8_t *restrict far, int width) {
    for (int x = 0; x < width; x++) sums[x] = (uint16_t)(3 * near[x] + far[x]);
}

INLINE void copy_line(uint16_t *restrict sums, const uint8_t *restrict line, int width) {
    for (int x = 0; x < width; x++) sums[x] = line[x];
}

/* Two pixels for each of `width` sums: 3/4 of it and 1/4 of its neighbour. sums[-1] and sums[width] repeat the ends, for which that gives
 * what libjpeg's special cases give: (3 s + s + 8) >> 4 is (4 s + 8) >> 4. Sums times 4 stay below 2^12. */
INLINE void widen(uint8_t *restrict out, const uint16_t *restrict sums, int width, int even, int odd, int shift) {
    for (int x = 0; x < width; x++) {
        uint16_t three = (uint16_t)(3 * sums[x]);
        out[2 * x] = (uint8_t)((uint16_t)(three + sums[x - 1] + even) >> shift);
        out[2 * x + 1] = (uint8_t)((uint16_t)(three + sums[x + 1] + odd) >> shift);
    }
}

INLINE void repeat(uint8_t *restrict out, const uint8_t *restrict gray, int width) {
    for (int x = 0; x < width; x++) out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = gray[x];
}

INLINE void double_line(uint8_t *restrict out, const uint8_t *restrict line, int width) {
    for (int x = 0; x < width; x++) out[2 * x] = out[2 * x + 1] = line[x];
}

/* ITU-R BT.601 in 16 binary digits, as jdcolor.c's tables have it: 1.402, 0.34414, 0.71414, 1.772. The shift of a negative number rounds
 * down (gcc and clang define it so); every sum is within 2^24. */
INLINE uint8_t clip(int value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

INLINE void convert(uint8_t *restrict out, const uint8_t *restrict y, const uint8_t *restrict cb, const uint8_t *restrict cr, int width) {
    for (int x = 0; x < width; x++) {
        int blue = cb[x] - 128, red = cr[x] - 128;
        out[3 * x] = clip(y[x] + ((91881 * red + 32768) >> 16));
        out[3 * x + 1] = clip(y[x] + ((-22554 * blue - 46802 * red + 32768) >> 16));
        out[3 * x + 2] = clip(y[x] + ((116130 * blue + 32768) >> 16));
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
/* 16 pixels a lane. The same values in 16 bits, as libjpeg-turbo's SIMD has them: 1.402 is 1 + 0.402, 1.772 is 2 - 0.228, and 0.71414 is
 * 1 - 0.28586. mulhi of a doubled factor, plus 1, halved, is the rounded product. */
FOR_AVX2 static inline __m256i mix_green(__m256i blue, __m256i red) {
    const __m256i factors = _mm256_set1_epi32((int)((uint32_t)18734 << 16 | (uint16_t)-22554)), half = _mm256_set1_epi32(32768);
    __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(blue, red), factors), high = _mm256_madd_epi16(_mm256_unpackhi_epi16(blue, red), factors);
    low = _mm256_srai_epi32(_mm256_add_epi32(low, half), 16), high = _mm256_srai_epi32(_mm256_add_epi32(high, half), 16);
    return _mm256_sub_epi16(_mm256_packs_epi32(low, high), red);
}

FOR_AVX2 static inline __m256i round_product(__m256i value, int factor) {
    __m256i product = _mm256_mulhi_epi16(_mm256_add_epi16(value, value), _mm256_set1_epi16((int16_t)factor));
    return _mm256_srai_epi16(_mm256_add_epi16(product, _mm256_set1_epi16(1)), 1);
}

/* Three planes of 16 pixels to their 48 bytes, in both lanes. */
FOR_AVX2 static inline void store_rgb(uint8_t *out, __m256i red, __m256i green, __m256i blue) {
    __m256i part[3];
    for (int i = 0; i < 3; i++) {
        static const int8_t place[3][3][16] = { /* part, channel: which pixel goes to each byte */
            {{0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5}, {-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1},
             {-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1}},
            {{-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1}, {5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10},
             {-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1}},
            {{-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1}, {-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1},
             {10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15}},
        };
        const __m256i r = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)place[i][0]));
        const __m256i g = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)place[i][1]));
        const __m256i b = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)place[i][2]));
        part[i] = _mm256_or_si256(_mm256_or_si256(_mm256_shuffle_epi8(red, r), _mm256_shuffle_epi8(green, g)), _mm256_shuffle_epi8(blue, b));
    }
    for (int i = 0; i < 3; i++) {
        _mm_storeu_si128((__m128i *)(out + 16 * i), _mm256_castsi256_si128(part[i]));
        _mm_storeu_si128((__m128i *)(out + 48 + 16 * i), _mm256_extracti128_si256(part[i], 1));
    }
}

FOR_AVX2 static inline void convert_32(uint8_t *out, const uint8_t *y, const uint8_t *cb, const uint8_t *cr) {
    const __m256i zero = _mm256_setzero_si256(), middle = _mm256_set1_epi16(128);
    __m256i luma = _mm256_loadu_si256((const __m256i *)y), blues = _mm256_loadu_si256((const __m256i *)cb);
    __m256i reds = _mm256_loadu_si256((const __m256i *)cr), shown[3][2];
    for (int i = 0; i < 2; i++) {
        __m256i light = i ? _mm256_unpackhi_epi8(luma, zero) : _mm256_unpacklo_epi8(luma, zero);
        __m256i blue = _mm256_sub_epi16(i ? _mm256_unpackhi_epi8(blues, zero) : _mm256_unpacklo_epi8(blues, zero), middle);
        __m256i red = _mm256_sub_epi16(i ? _mm256_unpackhi_epi8(reds, zero) : _mm256_unpacklo_epi8(reds, zero), middle);
        shown[0][i] = _mm256_add_epi16(light, _mm256_add_epi16(red, round_product(red, 26345)));
        shown[1][i] = _mm256_add_epi16(light, mix_green(blue, red));
        shown[2][i] = _mm256_add_epi16(light, _mm256_add_epi16(_mm256_add_epi16(blue, blue), round_product(blue, -14942)));
    }
    store_rgb(out, _mm256_packus_epi16(shown[0][0], shown[0][1]), _mm256_packus_epi16(shown[1][0], shown[1][1]),
              _mm256_packus_epi16(shown[2][0], shown[2][1]));
}

/* The last 32 pixels overlap those before them; a narrower line has the plain loop. */
FOR_AVX2 static void convert_avx2(uint8_t *out, const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int width) {
    if (width < 32) {
        convert(out, y, cb, cr, width);
        return;
    }
    for (int x = 0; x + 32 <= width; x += 32) convert_32(out + 3 * x, y + x, cb + x, cr + x);
    int last = width - 32;
    convert_32(out + 3 * last, y + last, cb + last, cr + last);
}
#else
#define convert_avx2 convert
#endif

/* A line of chroma of half of luma's width, as wide as luma; `near` and `far` are the same line where only the width is halved. */
INLINE void enlarge(uint8_t *restrict out, const Plane *plane, const uint8_t *near, const uint8_t *far, uint16_t *restrict sums, int two) {
    int width = plane->width;
    if (!plane->fancy_x) {
        double_line(out, near, width);
        return;
    }
    if (two)
        add_lines(sums, near, far, width);
    else
        copy_line(sums, near, width);
    sums[-1] = sums[0], sums[width] = sums[width - 1];
    if (two)
        widen(out, sums, width, 8, 7, 4);
    else
        widen(out, sums, width, 1, 2, 2);
}

/* The two buffers of an image: sums, with SIDES free values on both sides, and a line for each chroma. */
typedef struct {
    uint16_t *sums;
    uint8_t *wide[2];
} Lines;

typedef void Convert(uint8_t *, const uint8_t *, const uint8_t *, const uint8_t *, int);

INLINE const uint8_t *line_of(const Plane *plane, int y) { return plane->pixels + (y - plane->top) * plane->stride; }

INLINE void make_lines_any(const Plane *planes, int components, const int *box, uint8_t *out, ptrdiff_t stride, const Lines *lines,
                           Convert *convert_line) {
    const Plane *luma = planes;
    int left = box[1], width = box[3] - left;
    for (int y = box[0]; y < box[2]; y++, out += stride) {
        const uint8_t *from = line_of(luma, y) + left - luma->left;
        if (components == 1) {
            repeat(out, from, width);
            continue;
        }
        const uint8_t *chroma[2];
        for (int i = 0; i < 2; i++) {
            const Plane *plane = planes + 1 + i;
            int two = plane->scale_y < 0.75 * luma->scale_y, line = two ? y / 2 : y, other = y % 2 ? line + 1 : line - 1;
            if (other < 0 || other >= plane->full_height) other = line; /* libjpeg repeats the first and the last line */
            chroma[i] = line_of(plane, line);
            if (plane->scale_x < 0.75 * luma->scale_x) { /* where the part ends within the image, its outermost pixels are not used */
                enlarge(lines->wide[i], plane, chroma[i], line_of(plane, other), lines->sums, two);
                chroma[i] = lines->wide[i] + left - 2 * plane->left;
            } else
                chroma[i] += left - plane->left;
        }
        convert_line(out, from, chroma[0], chroma[1], width);
    }
}

typedef void MakeLines(const Plane *, int, const int *, uint8_t *, ptrdiff_t, const Lines *);

FOR_AVX2 static void make_lines_avx2(const Plane *planes, int components, const int *box, uint8_t *out, ptrdiff_t stride, const Lines *lines) {
    make_lines_any(planes, components, box, out, stride, lines, convert_avx2);
}

static void make_lines(const Plane *planes, int components, const int *box, uint8_t *out, ptrdiff_t stride, const Lines *lines) {
    make_lines_any(planes, components, box, out, stride, lines, convert);
}

int planes_to_rgb(const Plane *planes, int components, const int box[4], uint8_t *out, ptrdiff_t stride, Buffer *buffer) {
    int width = 0; /* of the widest chroma, which is the enlarged one where it is half of luma's width */
    for (int i = 1; i < components; i++)
        if (width < planes[i].width) width = planes[i].width;
    size_t sums = (size_t)width + 2 * SIDES;
    if (!reserve(buffer, sums * sizeof(uint16_t) + 2 * (2 * (size_t)width))) return 0;
    Lines lines = {(uint16_t *)buffer->data + SIDES, {(uint8_t *)((uint16_t *)buffer->data + sums)}};
    lines.wide[1] = lines.wide[0] + 2 * (size_t)width;
    MakeLines *make = find_simd_level() >= SIMD_AVX2 ? make_lines_avx2 : make_lines;
    make(planes, components, box, out, stride, &lines);
    return 1;
}
