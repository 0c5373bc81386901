/* Inverse DCTs: libjpeg's accurate integer ones (jidctint.c, and jidctred.c for smaller sizes), bit for bit.
 *
 *   coefficients times quantisation ─► columns ─► 16 bits, saturated as libjpeg-turbo's SIMD does ─► lines ─► within 0 to 255
 *
 * Sums wrap at 32 bits, as those of vector instructions do: data that no encoder writes have wrong pixels, the same on every machine.
 */
#include "idct.h"

enum { CONST_BITS = 13, PASS1_BITS = 2 };

INLINE int32_t descale(uint32_t sum, int bits) { return (int32_t)(sum + (1u << (bits - 1))) >> bits; }
INLINE int32_t within(int32_t value, int32_t low, int32_t high) { return value < low ? low : value > high ? high : value; }
INLINE uint8_t pixel(int32_t value) { return (uint8_t)(within(value, -128, 127) + 128); }
INLINE int16_t between(uint32_t sum, int bits) { return (int16_t)within(descale(sum, bits), INT16_MIN, INT16_MAX); }
INLINE uint32_t times(int32_t value, int32_t factor) { return (uint32_t)value * (uint32_t)factor; }

/* One pass over eight columns, which compilers do at once. `in` has eight lines of eight, `out` gets `size` such lines, saturated.
 * libjpeg's names are kept. As in libjpeg-turbo's SIMD, the sums of inputs wrap at 16 bits. */
INLINE void pass_of_8(const int16_t *in, int16_t *out, int bits) {
    for (int x = 0; x < 8; x++) {
        int32_t c0 = in[x], c1 = in[8 + x], c2 = in[16 + x], c3 = in[24 + x], c4 = in[32 + x], c5 = in[40 + x], c6 = in[48 + x], c7 = in[56 + x];
        uint32_t z1 = times(c2 + c6, 4433), tmp2 = z1 - times(c6, 15137), tmp3 = z1 + times(c2, 6270);
        uint32_t tmp0 = times((int16_t)(c0 + c4), 8192), tmp1 = times((int16_t)(c0 - c4), 8192);
        uint32_t tmp10 = tmp0 + tmp3, tmp13 = tmp0 - tmp3, tmp11 = tmp1 + tmp2, tmp12 = tmp1 - tmp2;
        int32_t c73 = (int16_t)(c7 + c3), c51 = (int16_t)(c5 + c1);
        uint32_t z5 = times(c73 + c51, 9633), z3 = z5 - times(c73, 16069), z4 = z5 - times(c51, 3196), z2 = times(c5 + c3, 20995);
        z1 = times(c7 + c1, 7373);
        tmp0 = times(c7, 2446) - z1 + z3;
        tmp1 = times(c5, 16819) - z2 + z4;
        tmp2 = times(c3, 25172) - z2 + z3;
        tmp3 = times(c1, 12299) - z1 + z4;
        out[x] = between(tmp10 + tmp3, bits), out[56 + x] = between(tmp10 - tmp3, bits);
        out[8 + x] = between(tmp11 + tmp2, bits), out[48 + x] = between(tmp11 - tmp2, bits);
        out[16 + x] = between(tmp12 + tmp1, bits), out[40 + x] = between(tmp12 - tmp1, bits);
        out[24 + x] = between(tmp13 + tmp0, bits), out[32 + x] = between(tmp13 - tmp0, bits);
    }
}

/* Averages of two neighbours; the fifth coefficient has no part in them. */
INLINE void pass_of_4(const int16_t *in, int16_t *out, int bits) {
    for (int x = 0; x < 8; x++) {
        int32_t c1 = in[8 + x], c2 = in[16 + x], c3 = in[24 + x], c5 = in[40 + x], c6 = in[48 + x], c7 = in[56 + x];
        uint32_t tmp0 = times(in[x], 16384), tmp2 = times(c2, 15137) - times(c6, 6270), tmp10 = tmp0 + tmp2, tmp12 = tmp0 - tmp2;
        uint32_t inner = times(c5, 11893) - times(c7, 1730) - times(c3, 17799) + times(c1, 8697);
        uint32_t outer = times(c3, 7373) - times(c7, 4176) - times(c5, 4926) + times(c1, 20995);
        out[x] = between(tmp10 + outer, bits), out[24 + x] = between(tmp10 - outer, bits);
        out[8 + x] = between(tmp12 + inner, bits), out[16 + x] = between(tmp12 - inner, bits);
    }
}

/* Averages of four neighbours, of the odd coefficients and the first, which has 32 bits; the outputs have, too. */
INLINE void pass_of_2(const int32_t *first, const int16_t *in, int32_t *out, int bits) {
    for (int x = 0; x < 8; x++) {
        uint32_t even = times(first[x], 32768);
        uint32_t odd = times(in[8 + x], 29692) - times(in[24 + x], 10426) + times(in[40 + x], 6967) - times(in[56 + x], 5906);
        out[x] = descale(even + odd, bits), out[8 + x] = descale(even - odd, bits);
    }
}

static void turn(const int16_t *in, int16_t *out, int lines) {
    for (int y = 0; y < lines; y++)
        for (int x = 0; x < 8; x++) out[8 * x + y] = in[8 * y + x];
}

static void plain_2(const int16_t *in, int16_t *out) {
    int32_t first[8], sums[16];
    int16_t lines[16], turned[BLOCK] = {0};
    for (int x = 0; x < 8; x++) first[x] = in[x];
    pass_of_2(first, in, sums, CONST_BITS - PASS1_BITS + 2);
    for (int i = 0; i < 16; i++) lines[i] = (int16_t)within(sums[i], INT16_MIN, INT16_MAX);
    turn(lines, turned, 2);
    for (int y = 0; y < 8; y++) first[y] = y < 2 ? sums[8 * y] : 0; /* not saturated, as in libjpeg-turbo's SIMD */
    pass_of_2(first, turned, sums, CONST_BITS + PASS1_BITS + 5);
    for (int i = 0; i < 16; i++) out[i] = (int16_t)within(sums[i], INT16_MIN, INT16_MAX);
}

static void idct_plain(int size, const Block *block) {
    int16_t in[BLOCK], lines[BLOCK], turned[BLOCK] = {0};
    for (int i = 0; i < BLOCK; i++) in[i] = (int16_t)times(block->coefficients[i], block->quant[i]);
    if (size == 8) {
        pass_of_8(in, lines, CONST_BITS - PASS1_BITS);
        turn(lines, turned, 8);
        pass_of_8(turned, lines, CONST_BITS + PASS1_BITS + 3);
    } else if (size == 4) {
        pass_of_4(in, lines, CONST_BITS - PASS1_BITS + 1);
        turn(lines, turned, 4);
        pass_of_4(turned, lines, CONST_BITS + PASS1_BITS + 4);
    } else
        plain_2(in, lines);
    for (int y = 0; y < size; y++) /* columns are lines now */
        for (int x = 0; x < size; x++) block->to[y * block->stride + x] = pixel(lines[8 * x + y]);
}

#if HAS_X86
#define REGISTER __m256i
#define LANES 2
#define FOR_THESE FOR_AVX2
#define V(name) _mm256_##name
#define OF(name) _mm256_##name##_si256
#define NAMED(name) name##_avx2
#define JOIN(of) _mm256_inserti128_si256(_mm256_castsi128_si256(of[0]), of[1], 1)
#include "idct_lanes.h"
#undef REGISTER
#undef LANES
#undef FOR_THESE
#undef V
#undef OF
#undef NAMED
#undef JOIN
#define REGISTER __m512i
#define LANES 4
#define FOR_THESE FOR_AVX512
#define V(name) _mm512_##name
#define OF(name) _mm512_##name##_si512
#define NAMED(name) name##_avx512
#define PAIR_OF(first, second) _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1)
#define JOIN(of) _mm512_inserti64x4(_mm512_castsi256_si512(PAIR_OF(of[0], of[1])), PAIR_OF(of[2], of[3]), 1)
#include "idct_lanes.h"
#endif

void idct(int size, const Block *blocks, int count) {
    int i = 0;
#if HAS_X86
    int level = find_simd_level();
    if (level >= SIMD_AVX512)
        for (; i + 4 <= count; i += 4) (size == 8 ? idct_8_avx512 : size == 4 ? idct_4_avx512 : idct_2_avx512)(blocks + i);
    if (level >= SIMD_AVX2) {
        for (; i + 2 <= count; i += 2) (size == 8 ? idct_8_avx2 : size == 4 ? idct_4_avx2 : idct_2_avx2)(blocks + i);
        if (i < count) { /* one is left: made twice, in the same place */
            Block both[2] = {blocks[i], blocks[i]};
            (size == 8 ? idct_8_avx2 : size == 4 ? idct_4_avx2 : idct_2_avx2)(both);
            i++;
        }
    }
#endif
    for (; i < count; i++) idct_plain(size, blocks + i);
}

void fill_block(int size, int first, uint8_t *to, ptrdiff_t stride) {
    uint64_t all = pixel(descale((uint32_t)first, 3)) * UINT64_C(0x0101010101010101);
    switch (size) {
        case 8:
            for (int y = 0; y < 8; y++) memcpy(to + y * stride, &all, 8);
            return;
        case 4:
            for (int y = 0; y < 4; y++) memcpy(to + y * stride, &all, 4);
            return;
        case 2:
            for (int y = 0; y < 2; y++) memcpy(to + y * stride, &all, 2);
            return;
        default: *to = (uint8_t)all;
    }
}
