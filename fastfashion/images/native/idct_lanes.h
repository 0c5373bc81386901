/* The inverse DCTs of idct.c for LANES blocks at once: each 128 bits of a register hold a line of another block. Included by idct.c once for
 * each kind of register; V(name) is an intrinsic of it, and OF(name) one that also names its width. */

FOR_THESE static inline REGISTER NAMED(factors)(int first, int second) {
    return V(set1_epi32)((int)((uint32_t)(uint16_t)first | (uint32_t)second << 16));
}

/* The sums of idct_line for one half of the columns, eight lines to eight; each is of products of pairs of neighbours. */
FOR_THESE static inline void NAMED(half)(REGISTER sum04, REGISTER difference04, REGISTER c26, REGISTER c71, REGISTER c53, REGISTER z34, int bits,
                                         REGISTER *out) {
#define PAIR(pair, first, second) V(madd_epi16)(pair, NAMED(factors)(first, second))
    REGISTER half = V(set1_epi32)(1 << (bits - 1)), z3 = PAIR(z34, 9633 - 16069, 9633), z4 = PAIR(z34, 9633, 9633 - 3196);
    REGISTER tmp0 = V(add_epi32)(PAIR(sum04, 4096, 4096), half), tmp1 = V(add_epi32)(PAIR(difference04, 4096, 4096), half);
    REGISTER tmp2 = PAIR(c26, 4433, 4433 - 15137), tmp3 = PAIR(c26, 4433 + 6270, 4433);
    REGISTER even[4] = {V(add_epi32)(tmp0, tmp3), V(add_epi32)(tmp1, tmp2), V(sub_epi32)(tmp1, tmp2), V(sub_epi32)(tmp0, tmp3)};
    REGISTER odd[4] = {V(add_epi32)(PAIR(c71, -7373, 12299 - 7373), z4), V(add_epi32)(PAIR(c53, -20995, 25172 - 20995), z3),
                       V(add_epi32)(PAIR(c53, 16819 - 20995, -20995), z4), V(add_epi32)(PAIR(c71, 2446 - 7373, -7373), z3)};
    for (int y = 0; y < 4; y++) {
        out[y] = V(srai_epi32)(V(add_epi32)(even[y], odd[y]), bits);
        out[7 - y] = V(srai_epi32)(V(sub_epi32)(even[y], odd[y]), bits);
    }
}

#define FOUR(a, b, c, d) V(add_epi32)(PAIR(c13, a, b), PAIR(c57, c, d))

/* Averages of two neighbours: out[0] to out[3]. */
FOR_THESE static inline void NAMED(half_of_4)(REGISTER c00, REGISTER c26, REGISTER c13, REGISTER c57, int bits, REGISTER *out) {
    REGISTER tmp0 = V(add_epi32)(PAIR(c00, 8192, 8192), V(set1_epi32)(1 << (bits - 1))), tmp2 = PAIR(c26, 15137, -6270);
    REGISTER outer = FOUR(20995, 7373, -4926, -4176), inner = FOUR(8697, -17799, 11893, -1730);
    REGISTER tmp10 = V(add_epi32)(tmp0, tmp2), tmp12 = V(sub_epi32)(tmp0, tmp2);
    out[0] = V(srai_epi32)(V(add_epi32)(tmp10, outer), bits), out[3] = V(srai_epi32)(V(sub_epi32)(tmp10, outer), bits);
    out[1] = V(srai_epi32)(V(add_epi32)(tmp12, inner), bits), out[2] = V(srai_epi32)(V(sub_epi32)(tmp12, inner), bits);
}

/* Averages of four neighbours: out[0] and out[1]. `first` has 32 bits. */
FOR_THESE static inline void NAMED(half_of_2)(REGISTER first, REGISTER c13, REGISTER c57, int bits, REGISTER *out) {
    REGISTER even = V(add_epi32)(V(slli_epi32)(first, CONST_BITS + 2), V(set1_epi32)(1 << (bits - 1))), sum = FOUR(29692, -10426, 6967, -5906);
    out[0] = V(srai_epi32)(V(add_epi32)(even, sum), bits), out[1] = V(srai_epi32)(V(sub_epi32)(even, sum), bits);
}

#undef FOUR
#undef PAIR

#define LOW(a, b) V(unpacklo_epi16)(line[a], line[b])
#define HIGH(a, b) V(unpackhi_epi16)(line[a], line[b])

/* Eight lines to eight, saturated. As in libjpeg-turbo's SIMD, the sums of inputs wrap at 16 bits. */
FOR_THESE static inline void NAMED(pass)(REGISTER *line, int bits) {
    REGISTER sum = V(add_epi16)(line[0], line[4]), difference = V(sub_epi16)(line[0], line[4]);
    REGISTER z3 = V(add_epi16)(line[7], line[3]), z4 = V(add_epi16)(line[5], line[1]), low[8], high[8];
    NAMED(half)(V(unpacklo_epi16)(sum, sum), V(unpacklo_epi16)(difference, difference), LOW(2, 6), LOW(7, 1), LOW(5, 3),
                V(unpacklo_epi16)(z3, z4), bits, low);
    NAMED(half)(V(unpackhi_epi16)(sum, sum), V(unpackhi_epi16)(difference, difference), HIGH(2, 6), HIGH(7, 1), HIGH(5, 3),
                V(unpackhi_epi16)(z3, z4), bits, high);
    for (int y = 0; y < 8; y++) line[y] = V(packs_epi32)(low[y], high[y]);
}

/* Transpose the eight lines of eight. */
FOR_THESE static inline void NAMED(turn)(REGISTER *line) {
    for (int stage = 0; stage < 3; stage++) {
        REGISTER turned[8];
        for (int i = 0; i < 4; i++) turned[2 * i] = LOW(i, i + 4), turned[2 * i + 1] = HIGH(i, i + 4);
        for (int i = 0; i < 8; i++) line[i] = turned[i];
    }
}

FOR_THESE static inline void NAMED(load)(REGISTER *line, const Block *blocks) {
    for (int y = 0; y < 8; y++) {
        __m128i scaled[LANES];
        for (int i = 0; i < LANES; i++)
            scaled[i] = _mm_mullo_epi16(_mm_load_si128((const __m128i *)blocks[i].coefficients + y), _mm_load_si128((const __m128i *)blocks[i].quant + y));
        line[y] = JOIN(scaled);
    }
}

FOR_THESE static void NAMED(idct_8)(const Block *blocks) {
    REGISTER line[8];
    NAMED(load)(line, blocks);
    NAMED(pass)(line, CONST_BITS - PASS1_BITS);
    NAMED(turn)(line);
    NAMED(pass)(line, CONST_BITS + PASS1_BITS + 3);
    NAMED(turn)(line);
    for (int y = 0; y < 8; y += 2) {
        _Alignas(64) uint8_t pixels[LANES * 16];
        /* within -128 to 127, plus 128 */
        OF(store)((void *)pixels, OF(xor)(V(packs_epi16)(line[y], line[y + 1]), V(set1_epi8)(-128)));
        for (int i = 0; i < LANES; i++) {
            memcpy(blocks[i].to + y * blocks[i].stride, pixels + 16 * i, 8);
            memcpy(blocks[i].to + (y + 1) * blocks[i].stride, pixels + 16 * i + 8, 8);
        }
    }
}

FOR_THESE static void NAMED(idct_4)(const Block *blocks) {
    REGISTER line[8], low[4], high[4];
    NAMED(load)(line, blocks);
    NAMED(half_of_4)(LOW(0, 0), LOW(2, 6), LOW(1, 3), LOW(5, 7), CONST_BITS - PASS1_BITS + 1, low);
    NAMED(half_of_4)(HIGH(0, 0), HIGH(2, 6), HIGH(1, 3), HIGH(5, 7), CONST_BITS - PASS1_BITS + 1, high);
    for (int y = 0; y < 4; y++) line[y] = V(packs_epi32)(low[y], high[y]), line[y + 4] = line[y];
    NAMED(turn)(line);
    NAMED(half_of_4)(LOW(0, 0), LOW(2, 6), LOW(1, 3), LOW(5, 7), CONST_BITS + PASS1_BITS + 4, low);
    REGISTER bytes = V(packs_epi16)(V(packs_epi32)(low[0], low[1]), V(packs_epi32)(low[2], low[3]));
    _Alignas(64) uint8_t columns[LANES * 16]; /* of four columns each */
    OF(store)((void *)columns, OF(xor)(bytes, V(set1_epi8)(-128)));
    for (int i = 0; i < LANES; i++) {
        const __m128i rows = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _Alignas(16) uint8_t pixels[16];
        _mm_store_si128((__m128i *)pixels, _mm_shuffle_epi8(_mm_load_si128((const __m128i *)columns + i), rows));
        for (int y = 0; y < 4; y++) memcpy(blocks[i].to + y * blocks[i].stride, pixels + 4 * y, 4);
    }
}

FOR_THESE static void NAMED(idct_2)(const Block *blocks) {
    REGISTER line[8], low[2], high[2];
    NAMED(load)(line, blocks);
    NAMED(half_of_2)(V(srai_epi32)(LOW(0, 0), 16), LOW(1, 3), LOW(5, 7), CONST_BITS - PASS1_BITS + 2, low);
    NAMED(half_of_2)(V(srai_epi32)(HIGH(0, 0), 16), HIGH(1, 3), HIGH(5, 7), CONST_BITS - PASS1_BITS + 2, high);
    REGISTER first = V(unpacklo_epi32)(low[0], low[1]); /* of both lines; not saturated, as in libjpeg-turbo's SIMD */
    for (int y = 0; y < 8; y++) line[y] = V(packs_epi32)(low[y & 1], high[y & 1]);
    NAMED(turn)(line);
    NAMED(half_of_2)(first, LOW(1, 3), LOW(5, 7), CONST_BITS + PASS1_BITS + 5, low);
    REGISTER bytes = V(packs_epi32)(low[0], low[1]);
    _Alignas(64) uint8_t columns[LANES * 16]; /* of two lines each, four bytes apart */
    OF(store)((void *)columns, OF(xor)(V(packs_epi16)(bytes, bytes), V(set1_epi8)(-128)));
    for (int i = 0; i < LANES; i++)
        for (int y = 0; y < 2; y++) {
            blocks[i].to[y * blocks[i].stride] = columns[16 * i + y];
            blocks[i].to[y * blocks[i].stride + 1] = columns[16 * i + 4 + y];
        }
}

#undef LOW
#undef HIGH
