/* A decoder of our own for plain baseline JPEGs, which decodes only the part that a box needs, to one plane for each component.
 *
 *   header ─► tables ─► clean bytes (no stuffing) ─► Huffman codes of one MCU after another ─► inverse DCT of the blocks that the box
 *                                                    └► blocks outside of the box: stepped over      touches ─► planes
 *
 * ITU-T T.81 is the standard; its figures are named where they are followed. What is rare or damaged is left to libjpeg-turbo, which
 * then says what is wrong (NOT_FOR_US). The inverse DCTs are those of libjpeg (jidctint.c, jidctred.c), bit for bit.
 */
#include "jpeg.h"

#include "turbo.h"

enum {
    BLOCK = 64,          /* coefficients */
    COMPONENTS = 3,
    MAX_BITS = 11,       /* of a look-up: 2^bits entries */
    SMALL_BITS = 9,      /* for small images, where making the tables takes most of the time */
    SMALL_BYTES = 6000,
    STEP_BITS = 12,      /* of a look-up that steps over several codes */
    KEPT_TABLES = 4,     /* of each kind */
    STEP_BYTES = 40000,  /* of a scan, from which on making that one pays */
    CHUNK = 8192,        /* bytes cleaned at once */
    /* A block is at most 64 codes of at most 16 bits with 15 bits of value: 248 bytes; reading is up to 16 bytes ahead. */
    BLOCK_BYTES = 272,
    MOST_DC = 4096,
    PADDING = 64, /* bytes after the lines of a plane, which whole registers may read */
    END_OF_BLOCK = 128, /* a step past every coefficient */
    APART = 128, SLOW = 0,
};

/* The next bits of the clean data, from the top of a register. At least 56 are there after `refill`. */
typedef struct {
    uint64_t bits;
    int count;
    const uint8_t *at;
} Bits;

/* An AC entry: bits (7..0), step to the coefficient (15..8), its value (31..16). `bits` is APART + the code's alone where the value does
 * not fit the look-up (the value is then its size), and SLOW where the code does not.
 * A pair: bits of both (7..0), bits of the first (15..8), step of the first (23..16), step of both (31..24), first value, second value.
 * A step entry: bits (7..0), steps of all (15..8), steps before the last (23..16), bits of the first (31..24). */
typedef struct {
    uint8_t counts[16], symbols[256]; /* as in the file */
    int total, bits, pairs, steps;    /* symbols; of a look-up; whether pair and step are made */
    uint32_t limit[18];               /* of codes of each length, left-aligned in 16 bits (T.81, F.16) */
    int32_t offset[17];
    uint32_t entry[1 << MAX_BITS];
    uint64_t pair[1 << MAX_BITS];
    uint32_t step[1 << STEP_BITS];
} Huffman;

typedef struct {
    Huffman *dc, *ac;
    int number, across, down, quant_number, dc_number, ac_number;
    const int16_t *quant;
    int size;                                  /* of a decoded block */
    int first_column, end_column, first_row, end_row; /* blocks that the box needs */
    uint8_t *pixels;
    ptrdiff_t stride;
    uint32_t predictor; /* sums wrap */
} Component;

/* The functions that are compiled for each kind of processor. */
typedef struct {
    int (*one)(Bits *, Component *, int16_t *), (*two)(Bits *, Component *, int16_t *), (*skip)(Bits *, Component *);
    void (*idct[9])(const int16_t *, const int16_t *, uint8_t *, ptrdiff_t);
} Variant;

struct Jpeg {
    JpegHeader header;
    Component components[COMPONENTS];
    int16_t quant[4][BLOCK]; /* in natural order */
    int has_quant;           /* a bit for each */
    Huffman *current[2][4];
    Huffman *kept[2][KEPT_TABLES];
    int next_kept[2];
    int jfif, adobe; /* Adobe's transform, or -1 */
    const uint8_t *scan, *end;
    /* The clean data: from `clean` to `clean_end`, and zeros after that. Codes may be read until the position passes `safe`. */
    Buffer memory, planes;
    uint8_t *clean, *clean_end;
    const uint8_t *safe, *next; /* of the file: the first byte that is not cleaned yet */
    int ended, marker;          /* the data ended, before this marker; 0 if there was none */
    Bits reader;
    int mcu; /* the next one */
    const Variant *variant;
};

/* The place of a coefficient by its number (T.81, figure A.6); the numbers past the last, which a step may reach, have a place of their own. */
static const uint8_t order[BLOCK + END_OF_BLOCK + 32] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    [BLOCK ... BLOCK + END_OF_BLOCK + 31] = BLOCK,
};

/* ---- tables ---- */

/* Make the look-up of one table. Entries are made in the order of the codes, so that each is written once. Returns 0 for a table that no
 * baseline encoder makes, and for one that has a code of ones alone, which libjpeg refuses. */
static int make_table(Huffman *table, int is_dc) {
    uint32_t code = 0, *at = table->entry, *end = table->entry + (1 << table->bits);
    int number = 0;
    for (int length = 1; length <= 16; length++) {
        table->offset[length] = number - (int32_t)code;
        for (int i = 0; i < table->counts[length - 1]; i++, number++, code++) {
            int symbol = table->symbols[number], size = symbol & 15, most = is_dc ? 11 : 10, spare = table->bits - length;
            if (code + 1 >= 1u << length || size > most || (is_dc ? symbol > most : size == 0 && symbol != 0 && symbol != 0xF0)) return 0;
            /* `at` stays below `end`: the codes so far take code + 1 <= 2^length of the 2^length equal parts of the look-up. */
            uint32_t step = (uint32_t)(is_dc ? 0 : symbol == 0 ? END_OF_BLOCK : (symbol >> 4) + 1) << 8;
            if (spare < 0) continue;
            if (size > spare) {
                uint32_t entry = (uint32_t)size << 16 | step | APART | (uint32_t)length;
                for (uint32_t *last = at + (1 << spare); at < last; at++) *at = entry;
                continue;
            }
            for (int32_t v = 0; v < 1 << size; v++) {
                int32_t value = size && v < 1 << (size - 1) ? v - (1 << size) + 1 : v; /* T.81, F.12 */
                uint32_t entry = (uint32_t)value << 16 | step | (uint32_t)(length + size);
                for (uint32_t *last = at + (1 << (spare - size)); at < last; at++) *at = entry;
            }
        }
        table->limit[length] = code << (16 - length);
        code <<= 1;
    }
    table->limit[17] = UINT32_MAX;
    memset(at, SLOW, (size_t)(end - at) * sizeof *at);
    table->pairs = table->steps = 0;
    return 1;
}

/* Two codes at once, where the look-up holds both with their values. */
static void make_pairs(Huffman *table) {
    uint32_t mask = (1u << table->bits) - 1;
    for (uint32_t i = 0; i <= mask; i++) {
        uint32_t first = table->entry[i], bits = first & 255, step = first >> 8 & 255;
        uint64_t pair = 0;
        if (bits != SLOW && !(bits & APART)) {
            uint32_t second = table->entry[i << bits & mask], both = bits + (second & 255);
            int alone = step == END_OF_BLOCK || (second & 255) == SLOW || second & APART || both > (uint32_t)table->bits;
            if (alone) second = first, both = bits;
            uint32_t steps = alone ? step : step + (second >> 8 & 255); /* at most 16 + END_OF_BLOCK */
            pair = (uint64_t)(second >> 16) << 48 | (uint64_t)(first >> 16) << 32 | (uint64_t)steps << 24 | step << 16 | bits << 8 | both;
        }
        table->pair[i] = pair;
    }
    table->pairs = 1;
}

/* As many codes at once as begin within the look-up; the value of the last need not be in it. */
static void make_steps(Huffman *table) {
    uint32_t single[1 << STEP_BITS], *at = single, *end = single + (1 << STEP_BITS), mask = (1 << STEP_BITS) - 1;
    for (int length = 1, number = 0; length <= STEP_BITS; length++)
        for (int i = 0; i < table->counts[length - 1]; i++) {
            uint32_t symbol = table->symbols[number++], step = symbol == 0 ? END_OF_BLOCK : (symbol >> 4) + 1;
            for (uint32_t *last = at + (1 << (STEP_BITS - length)); at < last; at++)
                *at = (uint32_t)length << 24 | step << 8 | ((uint32_t)length + (symbol & 15));
        }
    memset(at, SLOW, (size_t)(end - at) * sizeof *at);
    for (uint32_t i = 0; i <= mask; i++) {
        uint32_t first = single[i], bits = first & 255, steps = first >> 8 & 255, before = 0, next;
        while (bits != SLOW && bits < STEP_BITS && steps < END_OF_BLOCK) {
            next = single[i << bits & mask];
            if ((next & 255) == SLOW || bits + (next >> 24) > STEP_BITS || steps + (next >> 8 & 255) >= 2 * BLOCK + END_OF_BLOCK / 2) break;
            before = steps;
            steps += next >> 8 & 255;
            bits += next & 255;
        }
        table->step[i] = (first & 255) << 24 | before << 16 | steps << 8 | bits;
    }
    table->steps = 1;
}

/* The table of a DHT segment: one that is kept, if it is the same. */
static Huffman *find_table(Jpeg *jpeg, int kind, const uint8_t *counts, const uint8_t *symbols, int total, int bits) {
    for (int i = 0; i < KEPT_TABLES; i++) {
        Huffman *table = jpeg->kept[kind][i];
        if (table && table->total == total && table->bits == bits && !memcmp(table->counts, counts, 16) && !memcmp(table->symbols, symbols, total))
            return table;
    }
    int slot = jpeg->next_kept[kind];
    while (jpeg->kept[kind][slot] && (jpeg->kept[kind][slot] == jpeg->current[kind][0] || jpeg->kept[kind][slot] == jpeg->current[kind][1]))
        slot = (slot + 1) % KEPT_TABLES; /* two are in use at most */
    jpeg->next_kept[kind] = (slot + 1) % KEPT_TABLES;
    Huffman *table = jpeg->kept[kind][slot];
    if (!table && !(table = jpeg->kept[kind][slot] = malloc(sizeof *table))) return NULL;
    memcpy(table->counts, counts, 16);
    memcpy(table->symbols, symbols, total);
    table->total = total;
    table->bits = bits;
    if (!make_table(table, kind == 0)) table->total = -1; /* is not found again */
    return table;
}

/* ---- clean bytes ---- */

/* Clean the next bytes of the scan: a stuffed zero goes, a marker ends the data. Returns 0 for what is left to libjpeg-turbo. */
static int clean_more(Jpeg *jpeg) {
    const uint8_t *from = jpeg->next, *stop = jpeg->end - from > CHUNK ? from + CHUNK : jpeg->end;
    uint8_t *to = jpeg->clean_end;
    if (jpeg->ended) return 0;
    while (from < stop) {
        const uint8_t *found = memchr(from, 0xFF, (size_t)(stop - from));
        size_t length = (size_t)((found ? found : stop) - from);
        memcpy(to, from, length); /* the clean data are never longer than the file */
        to += length, from += length;
        if (!found) break;
        if (jpeg->end - found < 2) return 0;
        if (found[1] == 0) {
            *to++ = 0xFF;
            from = found + 2;
            continue;
        }
        while (from < jpeg->end && *from == 0xFF) from++; /* fill bytes */
        if (from == jpeg->end || *from == 0) return 0;
        jpeg->ended = 1;
        jpeg->marker = *from++;
        break;
    }
    if (!jpeg->ended && from == jpeg->end) return 0; /* no marker after the data: libjpeg-turbo says whether that matters */
    jpeg->next = from;
    jpeg->clean_end = to;
    if (jpeg->ended) {
        memset(to, 0, BLOCK_BYTES);
        jpeg->safe = to + 8; /* reading is up to 8 bytes ahead of what is used */
    } else
        jpeg->safe = to - jpeg->clean > BLOCK_BYTES ? to - BLOCK_BYTES : jpeg->clean - 1;
    return 1;
}

/* Start reading at a byte of the file, `bit` bits into it. */
static int start_reading(Jpeg *jpeg, const uint8_t *from, int bit) {
    jpeg->next = from;
    jpeg->ended = 0;
    jpeg->clean_end = jpeg->clean = jpeg->memory.data;
    jpeg->reader = (Bits){0, -bit, jpeg->clean};
    while (!jpeg->ended && jpeg->clean_end - jpeg->clean <= BLOCK_BYTES)
        if (!clean_more(jpeg)) return 0;
    /* The bits before the first are dropped by one refill and a shift. */
    uint64_t word = 0;
    for (int i = 0; i < 8; i++) word = word << 8 | jpeg->clean[i];
    jpeg->reader = (Bits){word << bit, 56 - bit, jpeg->clean + 7};
    return 1;
}

/* ---- codes ---- */

INLINE void refill(Bits *b) {
    uint64_t word;
    memcpy(&word, b->at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    b->bits |= word >> b->count;
    b->at += (63 - b->count) >> 3;
    b->count |= 56;
}

INLINE void drop(Bits *b, int bits) {
    b->bits <<= bits;
    b->count -= bits;
}

/* T.81, F.12: a value of `size` bits; those of a first bit 0 are negative. */
INLINE int take_value(Bits *b, int size) {
    int32_t bits = (int32_t)(b->bits >> 1 >> (63 - size)), sign = (int32_t)(b->bits >> 63) - 1;
    drop(b, size);
    return bits + (sign & (1 - (1 << size)));
}

/* A code that the look-up has not whole, from at least 27 bits: its entry, with the code and its value dropped; SLOW if there is none. */
INLINE uint32_t take_long(Bits *b, const Huffman *table, uint32_t entry) {
    uint32_t size, step;
    if (entry & APART) {
        drop(b, entry & 31);
        step = entry & 0xFF00;
        size = entry >> 16;
    } else {
        uint32_t peek = (uint32_t)(b->bits >> 48);
        int length = table->bits + 1;
        while (peek >= table->limit[length]) length++; /* the 17th is above every code */
        if (length > 16) return SLOW;
        /* Below the limit of this length and not below that of the one before: a code of this length, so a symbol of the table. */
        uint32_t symbol = table->symbols[(int32_t)(peek >> (16 - length)) + table->offset[length]];
        drop(b, length);
        size = symbol & 15;
        step = symbol == 0 ? END_OF_BLOCK << 8 : ((symbol >> 4) + 1) << 8;
    }
    return (uint32_t)take_value(b, (int)size) << 16 | step | 1;
}

/* The DC difference of a block, after a refill. Returns 0 for a code that does not exist. */
INLINE int take_dc(Bits *b, const Huffman *table, int *difference) {
    uint32_t entry = table->entry[b->bits >> (64 - table->bits)];
    if (entry & APART || (entry & 255) == SLOW) {
        entry = take_long(b, table, entry);
        if (entry == SLOW) return 0;
    } else
        drop(b, entry & 63);
    *difference = (int16_t)(entry >> 16);
    return 1;
}

enum { DAMAGED = -1 };

/* The number of the last coefficient of a block, after a step to k >= 63, or DAMAGED. */
INLINE int end_block(int k) { return k == BLOCK - 1 || k >= END_OF_BLOCK ? k : DAMAGED; }

/* Read a block in natural order, which must be zeros. Returns the number of its last coefficient (or more), 0 if it is flat, or DAMAGED. */
INLINE int read_block_by_one(Bits *reader, Component *part, int16_t *block) {
    const Huffman *table = part->ac;
    const int shift = 64 - table->bits;
    Bits b = *reader;
    int k = 0, difference = 0, first = 1;
    refill(&b);
    if (!take_dc(&b, part->dc, &difference)) return DAMAGED;
    block[0] = (int16_t)(part->predictor += (uint32_t)difference);
    for (;;) {
        refill(&b);
        for (int i = 0; i < 4; i++) { /* 4 * 11 bits, or 3 * 11 and a long code of at most 26: never more than 56 without a refill */
            uint32_t entry = table->entry[b.bits >> shift];
            if ((uint8_t)(entry - 1) >= APART - 1) {
                refill(&b);
                entry = take_long(&b, table, entry);
                if (entry == SLOW) return DAMAGED;
                refill(&b);
            } else
                drop(&b, entry & 63);
            k += entry >> 8 & 255;
            block[order[k]] = (int16_t)(entry >> 16);
            if (k >= BLOCK - 1) {
                *reader = b;
                return first && k == END_OF_BLOCK ? 0 : end_block(k);
            }
            first = 0;
        }
    }
}

/* The same, two codes at once. */
INLINE int read_block_by_two(Bits *reader, Component *part, int16_t *block) {
    const Huffman *table = part->ac;
    const int shift = 64 - table->bits;
    Bits b = *reader;
    int k = 0, difference = 0;
    refill(&b);
    if (!take_dc(&b, part->dc, &difference)) return DAMAGED;
    block[0] = (int16_t)(part->predictor += (uint32_t)difference);
    for (;;) {
        refill(&b);
        for (int i = 0; i < 4; i++) {
            uint64_t pair = table->pair[b.bits >> shift];
            if (!(pair & 255)) {
                refill(&b);
                uint32_t entry = take_long(&b, table, table->entry[b.bits >> shift]);
                if (entry == SLOW) return DAMAGED;
                refill(&b);
                k += entry >> 8 & 255;
                block[order[k]] = (int16_t)(entry >> 16);
                if (k >= BLOCK - 1) goto done;
                continue;
            }
            int one = k + (pair >> 16 & 255), two = k + (pair >> 24 & 255);
            block[order[one]] = (int16_t)(pair >> 32);
            if (two >= BLOCK - 1) {
                if (one >= BLOCK - 1) { /* the second code is of the next block */
                    drop(&b, pair >> 8 & 63);
                    *reader = b;
                    return k == 0 && one == END_OF_BLOCK ? 0 : end_block(one);
                }
                block[order[two]] = (int16_t)(pair >> 48);
                drop(&b, pair & 63);
                k = two;
                /* `two` of a code past the last coefficient, or of the end */
                goto done;
            }
            block[order[two]] = (int16_t)(pair >> 48);
            drop(&b, pair & 63);
            k = two;
        }
    }
done:
    *reader = b;
    return end_block(k) == DAMAGED ? DAMAGED : k == END_OF_BLOCK ? 0 : k;
}

/* Step over a block; only its DC is read. */
INLINE int skip_block_by_steps(Bits *reader, Component *part) {
    const Huffman *table = part->ac;
    Bits b = *reader;
    int k = 0, difference = 0;
    refill(&b);
    if (!take_dc(&b, part->dc, &difference)) return DAMAGED;
    part->predictor += (uint32_t)difference;
    for (;;) {
        refill(&b);
        for (int i = 0; i < 2; i++) { /* at most 11 bits and 26 */
            uint32_t entry = table->step[b.bits >> (64 - STEP_BITS)];
            if ((entry & 255) == SLOW || k + (int)(entry >> 16 & 255) >= BLOCK - 1) { /* the look-up is not of this block alone */
                entry = table->entry[b.bits >> (64 - table->bits)];
                if ((uint8_t)(entry - 1) >= APART - 1) {
                    refill(&b);
                    entry = take_long(&b, table, entry);
                    if (entry == SLOW) return DAMAGED;
                    refill(&b);
                } else
                    drop(&b, entry & 63);
            } else
                drop(&b, entry & 63);
            k += entry >> 8 & 255;
            if (k >= BLOCK - 1) {
                *reader = b;
                return end_block(k);
            }
        }
    }
}

/* ---- inverse DCT: jidctint.c and jidctred.c of libjpeg; as in its SIMD, sums of inputs are of 16 bits, and the first pass saturates ---- */

enum { CONST_BITS = 13, PASS1_BITS = 2 };

/* Sums wrap, as those of vector instructions do: data that no encoder writes have wrong pixels, but the same on every machine. */
INLINE int32_t descale(uint32_t sum, int bits) { return (int32_t)(sum + (1u << (bits - 1))) >> bits; }
INLINE int32_t within(int32_t value, int32_t low, int32_t high) { return value < low ? low : value > high ? high : value; }
INLINE uint8_t pixel(int32_t value) { return (uint8_t)within(value + 128, 0, 255); }
INLINE uint32_t times(int32_t value, int32_t factor) { return (uint32_t)value * (uint32_t)factor; }

/* Eight outputs of eight coefficients; `stride` apart. */
INLINE void idct_line(const int16_t *in, uint32_t *out) {
    uint32_t z1 = times(in[16] + in[48], 4433), tmp2 = z1 - times(in[48], 15137), tmp3 = z1 + times(in[16], 6270);
    uint32_t tmp0 = (uint32_t)(int16_t)(in[0] + in[32]) << CONST_BITS, tmp1 = (uint32_t)(int16_t)(in[0] - in[32]) << CONST_BITS;
    uint32_t tmp10 = tmp0 + tmp3, tmp13 = tmp0 - tmp3, tmp11 = tmp1 + tmp2, tmp12 = tmp1 - tmp2;
    int32_t c7 = in[56], c5 = in[40], c3 = in[24], c1 = in[8];
    int32_t c73 = (int16_t)(c7 + c3), c51 = (int16_t)(c5 + c1);
    uint32_t z5 = times(c73 + c51, 9633), z3 = z5 - times(c73, 16069), z4 = z5 - times(c51, 3196), z2 = times(c5 + c3, 20995);
    z1 = times(c7 + c1, 7373);
    tmp0 = times(c7, 2446) - z1 + z3;
    tmp1 = times(c5, 16819) - z2 + z4;
    tmp2 = times(c3, 25172) - z2 + z3;
    tmp3 = times(c1, 12299) - z1 + z4;
    out[0] = tmp10 + tmp3, out[7] = tmp10 - tmp3;
    out[1] = tmp11 + tmp2, out[6] = tmp11 - tmp2;
    out[2] = tmp12 + tmp1, out[5] = tmp12 - tmp1;
    out[3] = tmp13 + tmp0, out[4] = tmp13 - tmp0;
}

static void idct_8x8(const int16_t *block, const int16_t *quant, uint8_t *to, ptrdiff_t stride) {
    int16_t in[BLOCK], turned[BLOCK];
    uint32_t out[8];
    for (int i = 0; i < BLOCK; i++) in[i] = (int16_t)times(block[i], quant[i]);
    for (int x = 0; x < 8; x++) {
        idct_line(in + x, out);
        for (int y = 0; y < 8; y++) turned[8 * x + y] = (int16_t)within(descale(out[y], CONST_BITS - PASS1_BITS), INT16_MIN, INT16_MAX);
    }
    for (int y = 0; y < 8; y++, to += stride) {
        idct_line(turned + y, out);
        for (int x = 0; x < 8; x++) to[x] = pixel(descale(out[x], CONST_BITS + PASS1_BITS + 3));
    }
}

#if HAS_X86
/* One pass over eight lines of eight coefficients: the sums of idct_line, for eight columns at once. */
FOR_AVX2 INLINE void idct_pass(__m128i *line, int bits) {
#define WIDE(x) _mm256_cvtepi16_epi32(x)
#define TIMES(x, factor) _mm256_mullo_epi32(x, _mm256_set1_epi32(factor))
#define ADD _mm256_add_epi32
#define SUB _mm256_sub_epi32
    __m256i c1 = WIDE(line[1]), c2 = WIDE(line[2]), c3 = WIDE(line[3]);
    __m256i c5 = WIDE(line[5]), c6 = WIDE(line[6]), c7 = WIDE(line[7]);
    __m256i z1 = TIMES(ADD(c2, c6), 4433), tmp2 = SUB(z1, TIMES(c6, 15137)), tmp3 = ADD(z1, TIMES(c2, 6270));
    __m256i tmp0 = _mm256_slli_epi32(WIDE(_mm_add_epi16(line[0], line[4])), CONST_BITS);
    __m256i tmp1 = _mm256_slli_epi32(WIDE(_mm_sub_epi16(line[0], line[4])), CONST_BITS);
    __m256i half = _mm256_set1_epi32(1 << (bits - 1));
    tmp0 = ADD(tmp0, half), tmp1 = ADD(tmp1, half);
    __m256i tmp10 = ADD(tmp0, tmp3), tmp13 = SUB(tmp0, tmp3), tmp11 = ADD(tmp1, tmp2), tmp12 = SUB(tmp1, tmp2);
    __m256i c73 = WIDE(_mm_add_epi16(line[7], line[3])), c51 = WIDE(_mm_add_epi16(line[5], line[1])), z5 = TIMES(ADD(c73, c51), 9633);
    __m256i z3 = SUB(z5, TIMES(c73, 16069)), z4 = SUB(z5, TIMES(c51, 3196)), z2 = TIMES(ADD(c5, c3), 20995);
    z1 = TIMES(ADD(c7, c1), 7373);
    tmp0 = ADD(SUB(TIMES(c7, 2446), z1), z3);
    tmp1 = ADD(SUB(TIMES(c5, 16819), z2), z4);
    tmp2 = ADD(SUB(TIMES(c3, 25172), z2), z3);
    tmp3 = ADD(SUB(TIMES(c1, 12299), z1), z4);
    __m256i out[8] = {ADD(tmp10, tmp3), ADD(tmp11, tmp2), ADD(tmp12, tmp1), ADD(tmp13, tmp0),
                      SUB(tmp13, tmp0), SUB(tmp12, tmp1), SUB(tmp11, tmp2), SUB(tmp10, tmp3)};
    for (int y = 0; y < 8; y += 2) { /* two lines pack to 16 bits, the halves of both in turns */
        __m256i both = _mm256_packs_epi32(_mm256_srai_epi32(out[y], bits), _mm256_srai_epi32(out[y + 1], bits));
        both = _mm256_permute4x64_epi64(both, 0xD8);
        line[y] = _mm256_castsi256_si128(both);
        line[y + 1] = _mm256_extracti128_si256(both, 1);
    }
#undef WIDE
#undef TIMES
#undef ADD
#undef SUB
}

FOR_AVX2 INLINE void turn(__m128i *line) {
    __m128i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm_unpacklo_epi16(line[i], line[i + 4]);
        a[2 * i + 1] = _mm_unpackhi_epi16(line[i], line[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        line[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]);
        line[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
    }
}

FOR_AVX2 static void idct_8x8_avx2(const int16_t *block, const int16_t *quant, uint8_t *to, ptrdiff_t stride) {
    __m128i line[8];
    for (int y = 0; y < 8; y++) line[y] = _mm_mullo_epi16(_mm_loadu_si128((const __m128i *)block + y), _mm_loadu_si128((const __m128i *)quant + y));
    idct_pass(line, CONST_BITS - PASS1_BITS);
    turn(line);
    idct_pass(line, CONST_BITS + PASS1_BITS + 3);
    turn(line);
    const __m128i middle = _mm_set1_epi8(-128);
    for (int y = 0; y < 8; y += 2) {
        __m128i both = _mm_xor_si128(_mm_packs_epi16(line[y], line[y + 1]), middle); /* within -128 to 127, plus 128 */
        _mm_storel_epi64((__m128i *)(to + y * stride), both);
        _mm_storeh_pd((double *)(to + (y + 1) * stride), _mm_castsi128_pd(both));
    }
}
#endif

/* Averages of two neighbours: four outputs of eight coefficients, without the fifth. */
INLINE void idct_half_line(const int16_t *in, uint32_t *out) {
    uint32_t tmp0 = (uint32_t)in[0] << (CONST_BITS + 1), tmp2 = times(in[16], 15137) - times(in[48], 6270), tmp10 = tmp0 + tmp2, tmp12 = tmp0 - tmp2;
    int32_t z1 = in[56], z2 = in[40], z3 = in[24], z4 = in[8];
    tmp0 = times(z2, 11893) - times(z1, 1730) - times(z3, 17799) + times(z4, 8697);
    tmp2 = times(z3, 7373) - times(z1, 4176) - times(z2, 4926) + times(z4, 20995);
    out[0] = tmp10 + tmp2, out[3] = tmp10 - tmp2;
    out[1] = tmp12 + tmp0, out[2] = tmp12 - tmp0;
}

static void idct_4x4(const int16_t *block, const int16_t *quant, uint8_t *to, ptrdiff_t stride) {
    int16_t in[BLOCK], turned[BLOCK];
    uint32_t out[4];
    for (int i = 0; i < BLOCK; i++) in[i] = (int16_t)times(block[i], quant[i]);
    for (int x = 0; x < 8; x++) {
        if (x == 4) continue;
        idct_half_line(in + x, out);
        for (int y = 0; y < 4; y++) turned[8 * x + y] = (int16_t)within(descale(out[y], CONST_BITS - PASS1_BITS + 1), INT16_MIN, INT16_MAX);
    }
    for (int y = 0; y < 4; y++, to += stride) {
        idct_half_line(turned + y, out);
        for (int x = 0; x < 4; x++) to[x] = pixel(descale(out[x], CONST_BITS + PASS1_BITS + 3 + 1));
    }
}

/* Averages of four neighbours: two outputs of the first coefficient and the odd ones. */
INLINE void idct_quarter_line(const int32_t *in, uint32_t *out) {
    uint32_t sum = times(in[3], 29692) - times(in[2] , 10426) + times(in[1], 6967) - times(in[0], 5906);
    uint32_t first = (uint32_t)in[4] << (CONST_BITS + 2);
    out[0] = first + sum, out[1] = first - sum;
}

static void idct_2x2(const int16_t *block, const int16_t *quant, uint8_t *to, ptrdiff_t stride) {
    static const int used[5] = {7, 5, 3, 1, 0};
    int32_t lines[2][5];
    uint32_t out[2];
    for (int i = 0; i < 5; i++) {
        int32_t in[5];
        for (int k = 0; k < 5; k++) {
            int at = 8 * used[k] + used[i];
            in[k] = (int16_t)times(block[at], quant[at]);
        }
        idct_quarter_line(in, out);
        for (int y = 0; y < 2; y++) {
            lines[y][i] = descale(out[y], CONST_BITS - PASS1_BITS + 2);
            if (i < 4) lines[y][i] = within(lines[y][i], INT16_MIN, INT16_MAX);
        }
    }
    for (int y = 0; y < 2; y++, to += stride) {
        idct_quarter_line(lines[y], out);
        for (int x = 0; x < 2; x++) to[x] = pixel(descale(out[x], CONST_BITS + PASS1_BITS + 3 + 2));
    }
}

#if HAS_X86
/* The coefficients of a row, dequantised. */
FOR_AVX2 INLINE __m128i scaled_row(const int16_t *block, const int16_t *quant, int y) {
    return _mm_mullo_epi16(_mm_loadu_si128((const __m128i *)block + y), _mm_loadu_si128((const __m128i *)quant + y));
}

/* a * first + b * second in each of eight columns; 2^16 * 2^15 is the largest sum. */
FOR_AVX2 INLINE __m256i mix_rows(__m128i a, __m128i b, int first, int second) {
    __m256i pairs = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(a, b)), _mm_unpackhi_epi16(a, b), 1);
    return _mm256_madd_epi16(pairs, _mm256_set1_epi32((int)((uint32_t)second << 16 | (uint16_t)first)));
}

FOR_AVX2 INLINE __m128i mix_pairs(__m128i pairs, int first, int second) {
    return _mm_madd_epi16(pairs, _mm_set1_epi32((int)((uint32_t)second << 16 | (uint16_t)first)));
}

FOR_AVX2 static void idct_4x4_avx2(const int16_t *block, const int16_t *quant, uint8_t *to, ptrdiff_t stride) {
    __m128i r0 = scaled_row(block, quant, 0), r1 = scaled_row(block, quant, 1), r2 = scaled_row(block, quant, 2), r3 = scaled_row(block, quant, 3);
    __m128i r5 = scaled_row(block, quant, 5), r6 = scaled_row(block, quant, 6), r7 = scaled_row(block, quant, 7);
    __m256i half = _mm256_set1_epi32(1 << (CONST_BITS - PASS1_BITS));
    __m256i first = _mm256_add_epi32(_mm256_slli_epi32(_mm256_cvtepi16_epi32(r0), CONST_BITS + 1), half), second = mix_rows(r2, r6, 15137, -6270);
    __m256i sum = _mm256_add_epi32(first, second), difference = _mm256_sub_epi32(first, second);
    __m256i inner = _mm256_add_epi32(mix_rows(r1, r3, 8697, -17799), mix_rows(r5, r7, 11893, -1730));
    __m256i outer = _mm256_add_epi32(mix_rows(r1, r3, 20995, 7373), mix_rows(r5, r7, -4926, -4176));
    enum { DOWN = CONST_BITS - PASS1_BITS + 1 };
    __m256i lines[2] = {_mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(sum, outer), DOWN), _mm256_srai_epi32(_mm256_add_epi32(difference, inner), DOWN)),
                        _mm256_packs_epi32(_mm256_srai_epi32(_mm256_sub_epi32(difference, inner), DOWN), _mm256_srai_epi32(_mm256_sub_epi32(sum, outer), DOWN))};
    /* Of each line, columns (0, 1), (2, 3) are in one half, (4, 5), (6, 7) in the other: pairs of columns, four lines each. */
    const __m256i turned = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15)); /* (0, 2), (1, 3) */
    __m256i a = _mm256_shuffle_epi8(lines[0], turned), b = _mm256_shuffle_epi8(lines[1], turned);
    __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88)); /* (0, 2) | (4, 6) */
    __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xDD));  /* (1, 3) | (5, 7) */
    __m128i c02 = _mm256_castsi256_si128(even), c46 = _mm256_extracti128_si256(even, 1);
    __m128i c13 = _mm256_castsi256_si128(odd), c57 = _mm256_extracti128_si256(odd, 1);
    __m128i zeroth = _mm_add_epi32(mix_pairs(c02, 1 << (CONST_BITS + 1), 0), _mm_set1_epi32(1 << (CONST_BITS + PASS1_BITS + 3)));
    __m128i ends = _mm_add_epi32(mix_pairs(c02, 0, 15137), mix_pairs(c46, 0, -6270));
    __m128i plus = _mm_add_epi32(zeroth, ends), minus = _mm_sub_epi32(zeroth, ends);
    __m128i near = _mm_add_epi32(mix_pairs(c13, 8697, -17799), mix_pairs(c57, 11893, -1730));
    __m128i far = _mm_add_epi32(mix_pairs(c13, 20995, 7373), mix_pairs(c57, -4926, -4176));
    enum { LAST = CONST_BITS + PASS1_BITS + 4 };
    __m128i left = _mm_packs_epi32(_mm_srai_epi32(_mm_add_epi32(plus, far), LAST), _mm_srai_epi32(_mm_add_epi32(minus, near), LAST));
    __m128i right = _mm_packs_epi32(_mm_srai_epi32(_mm_sub_epi32(minus, near), LAST), _mm_srai_epi32(_mm_sub_epi32(plus, far), LAST));
    __m128i columns = _mm_xor_si128(_mm_packs_epi16(left, right), _mm_set1_epi8(-128));
    __m128i shown = _mm_shuffle_epi8(columns, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    int32_t pixels[4];
    memcpy(pixels, &shown, sizeof pixels);
    for (int y = 0; y < 4; y++) memcpy(to + y * stride, pixels + y, 4);
}

FOR_AVX2 static void idct_2x2_avx2(const int16_t *block, const int16_t *quant, uint8_t *to, ptrdiff_t stride) {
    __m256i odd = _mm256_add_epi32(mix_rows(scaled_row(block, quant, 1), scaled_row(block, quant, 3), 29692, -10426),
                                   mix_rows(scaled_row(block, quant, 5), scaled_row(block, quant, 7), 6967, -5906));
    enum { DOWN = CONST_BITS - PASS1_BITS + 2, LAST = CONST_BITS + PASS1_BITS + 5 };
    __m256i first = _mm256_slli_epi32(_mm256_cvtepi16_epi32(scaled_row(block, quant, 0)), CONST_BITS + 2);
    first = _mm256_add_epi32(first, _mm256_set1_epi32(1 << (DOWN - 1)));
    __m256i a = _mm256_srai_epi32(_mm256_add_epi32(first, odd), DOWN), b = _mm256_srai_epi32(_mm256_sub_epi32(first, odd), DOWN);
    __m256i both = _mm256_packs_epi32(a, b); /* columns 0 to 3 of the first line, and of the second | 4 to 7 */
    both = _mm256_madd_epi16(both, _mm256_setr_epi16(0, 29692, 0, -10426, 0, 29692, 0, -10426, 0, 6967, 0, -5906, 0, 6967, 0, -5906));
    __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    sums = _mm_hadd_epi32(sums, sums);
    __m128i zeroth = _mm_slli_epi32(_mm_unpacklo_epi32(_mm256_castsi256_si128(a), _mm256_castsi256_si128(b)), CONST_BITS + 2);
    zeroth = _mm_add_epi32(zeroth, _mm_set1_epi32(1 << (LAST - 1)));
    __m128i shown = _mm_unpacklo_epi32(_mm_add_epi32(zeroth, sums), _mm_sub_epi32(zeroth, sums));
    shown = _mm_packs_epi32(_mm_srai_epi32(shown, LAST), shown);
    shown = _mm_xor_si128(_mm_packs_epi16(shown, shown), _mm_set1_epi8(-128));
    int32_t pixels = _mm_cvtsi128_si32(shown);
    memcpy(to, &pixels, 2);
    memcpy(to + stride, (uint8_t *)&pixels + 2, 2);
}
#endif

INLINE void fill_block(int size, int dc, uint8_t *to, ptrdiff_t stride) {
    uint8_t value = pixel(descale((uint32_t)dc, 3));
    if (size == 8)
        for (int y = 0; y < 8; y++) memset(to + y * stride, value, 8);
    else
        for (int y = 0; y < size; y++)
            for (int x = 0; x < size; x++) to[y * stride + x] = value;
}

/* ---- variants for kinds of processors: the same bodies, compiled for each ---- */

#define VARIANT(name, target, whole, half, quarter)                                                                                           \
    target static int one_##name(Bits *b, Component *part, int16_t *block) { return read_block_by_one(b, part, block); }                      \
    target static int two_##name(Bits *b, Component *part, int16_t *block) { return read_block_by_two(b, part, block); }                      \
    target static int skip_##name(Bits *b, Component *part) { return skip_block_by_steps(b, part); }                                          \
    static const Variant name = {one_##name, two_##name, skip_##name, {[8] = whole, [4] = half, [2] = quarter}};

VARIANT(plain, , idct_8x8, idct_4x4, idct_2x2)
#if HAS_X86
VARIANT(avx2, FOR_AVX2, idct_8x8_avx2, idct_4x4_avx2, idct_2x2_avx2)
#endif

static const Variant *find_variant(void) {
#if HAS_X86
    if (find_simd_level() >= SIMD_AVX2) return &avx2;
#endif
    return &plain;
}

/* ---- header ---- */

static unsigned read_16(const uint8_t *at) { return (unsigned)at[0] << 8 | at[1]; }

/* DQT, T.81, B.2.4.1. Each of these returns 0, NOT_FOR_US or NO_MEMORY for the body of one segment. */
static int read_quant(Jpeg *jpeg, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at += 1 + BLOCK) {
        int number = at[0];
        if (end - at < 1 + BLOCK || number > 3) return NOT_FOR_US; /* 16 bits, or a table that does not exist */
        for (int k = 0; k < BLOCK; k++) jpeg->quant[number][order[k]] = at[1 + k];
        jpeg->has_quant |= 1 << number;
    }
    return 0;
}

/* DHT, B.2.4.2. */
static int read_tables(Jpeg *jpeg, const uint8_t *at, const uint8_t *end, int bits) {
    while (at < end) {
        if (end - at < 17) return NOT_FOR_US;
        int kind = at[0] >> 4, number = at[0] & 15, total = 0;
        uint8_t counts[16]; /* what bounds something is read once: somebody may write to the file below a memory map */
        memcpy(counts, at + 1, sizeof counts);
        for (int i = 0; i < 16; i++) total += counts[i];
        if (kind > 1 || number > 1 || total > 256 || end - at < 17 + total) return NOT_FOR_US;
        Huffman *table = find_table(jpeg, kind, counts, at + 17, total, bits);
        if (!table) return NO_MEMORY;
        if (table->total < 0) return NOT_FOR_US;
        jpeg->current[kind][number] = table;
        at += 17 + total;
    }
    return 0;
}

/* SOF0, B.2.2: one component, or three with chroma 4:4:4, 4:2:2 or 4:2:0. */
static int read_frame(Jpeg *jpeg, const uint8_t *at, const uint8_t *end) {
    JpegHeader *header = &jpeg->header;
    if (header->components || end - at < 6 || at[0] != 8) return NOT_FOR_US;
    header->height = (int)read_16(at + 1);
    header->width = (int)read_16(at + 3);
    int count = at[5], sampling = 0;
    if (!header->height || !header->width || (count != 1 && count != 3) || end - at != 6 + 3 * count) return NOT_FOR_US;
    header->components = count;
    for (int i = 0; i < count; i++) {
        Component *part = jpeg->components + i;
        const uint8_t *said = at + 6 + 3 * i;
        part->number = said[0], part->quant_number = said[2];
        if (part->quant_number > 3 || (i && said[1] != 0x11)) return NOT_FOR_US;
        if (i == 0) sampling = said[1];
    }
    if (sampling != 0x11 && (count == 1 || (sampling != 0x21 && sampling != 0x22))) return NOT_FOR_US;
    header->across = sampling >> 4, header->down = sampling & 15;
    header->mcus_across = (header->width + 8 * header->across - 1) / (8 * header->across);
    header->mcus_down = (header->height + 8 * header->down - 1) / (8 * header->down);
    return 0;
}

/* SOS, B.2.3: all components in one scan. */
static int read_scan(Jpeg *jpeg, const uint8_t *at, const uint8_t *end) {
    int count = jpeg->header.components;
    if (!count || end - at != 4 + 2 * count || at[0] != count) return NOT_FOR_US;
    const uint8_t *spectrum = at + 1 + 2 * count;
    if (spectrum[0] != 0 || spectrum[1] != 63 || spectrum[2] != 0) return NOT_FOR_US;
    for (int i = 0; i < count; i++) {
        Component *part = jpeg->components + i;
        int dc = at[2 + 2 * i] >> 4, ac = at[2 + 2 * i] & 15;
        if (at[1 + 2 * i] != part->number || dc > 1 || ac > 1 || !jpeg->current[0][dc] || !jpeg->current[1][ac]) return NOT_FOR_US;
        if (!(jpeg->has_quant >> part->quant_number & 1)) return NOT_FOR_US;
        part->dc = jpeg->current[0][dc], part->ac = jpeg->current[1][ac], part->quant = jpeg->quant[part->quant_number];
    }
    if (count == 3 && !jpeg->jfif && jpeg->adobe < 0) /* the numbers 1, 2, 3 mean YCbCr */
        for (int i = 0; i < 3; i++)
            if (jpeg->components[i].number != i + 1) return NOT_FOR_US;
    return count == 3 && jpeg->adobe >= 0 && jpeg->adobe != 1 ? NOT_FOR_US : 0;
}

static int read_segment(Jpeg *jpeg, int marker, const uint8_t *at, const uint8_t *end, size_t size) {
    switch (marker) {
        case 0xC0: return read_frame(jpeg, at, end);
        case 0xC4: return read_tables(jpeg, at, end, size < SMALL_BYTES ? SMALL_BITS : MAX_BITS);
        case 0xDB: return read_quant(jpeg, at, end);
        case 0xDD:
            if (end - at != 2) return NOT_FOR_US;
            jpeg->header.restarts = (int)read_16(at);
            return 0;
        case 0xE0:
            if (end - at < 14 || memcmp(at, "JFIF", 5)) return 0;
            jpeg->jfif = 1;
            return at[5] == 1 ? 0 : NOT_FOR_US; /* libjpeg warns of another version, so such an image goes the way of damaged ones */
        case 0xE1:
            if (jpeg->header.turned < 0) jpeg->header.turned = exif_turned(at, (size_t)(end - at));
            return 0;
        case 0xEE:
            if (end - at >= 12 && !memcmp(at, "Adobe", 5)) jpeg->adobe = at[11];
            return 0;
        default: return (marker >= 0xE2 && marker <= 0xEF) || marker == 0xFE ? 0 : NOT_FOR_US; /* other processes, DNL, stray markers */
    }
}

int baseline_read_header(Jpeg *jpeg, const uint8_t *data, size_t size) {
    memset(&jpeg->header, 0, sizeof jpeg->header);
    memset(jpeg->current, 0, sizeof jpeg->current);
    jpeg->has_quant = jpeg->jfif = 0, jpeg->adobe = jpeg->header.turned = -1;
    jpeg->scan = NULL;
    if (size < 4 || data[0] != 0xFF || data[1] != 0xD8) return NOT_FOR_US;
    if (data[size - 2] != 0xFF || data[size - 1] != 0xD9) return NOT_FOR_US; /* cut short, most likely: that has the same answer for every box */
    const uint8_t *at = data + 2, *end = data + size;
    while (end - at >= 4) {
        int marker = at[1];
        size_t length = read_16(at + 2);
        if (at[0] != 0xFF || marker < 0xC0 || length < 2 || length > (size_t)(end - at - 2)) return NOT_FOR_US; /* or fill bytes */
        if (marker == 0xDA) {
            int status = read_scan(jpeg, at + 4, at + 2 + length);
            if (status) return status;
            at += 2 + length;
            if (!reserve(&jpeg->memory, (size_t)(end - at) + 2 * BLOCK_BYTES)) return NO_MEMORY;
            if (jpeg->header.turned < 0) jpeg->header.turned = 0;
            jpeg->scan = at;
            jpeg->end = end;
            return 0;
        }
        int status = read_segment(jpeg, marker, at + 4, at + 2 + length, size);
        if (status) return status;
        at += 2 + length;
    }
    return NOT_FOR_US;
}

const JpegHeader *baseline_header(const Jpeg *jpeg) { return &jpeg->header; }

Jpeg *open_baseline(void) { return calloc(1, sizeof(Jpeg)); }

void close_baseline(Jpeg *jpeg) {
    if (!jpeg) return;
    for (int i = 0; i < 2 * KEPT_TABLES; i++) free(jpeg->kept[i / KEPT_TABLES][i % KEPT_TABLES]);
    free(jpeg->memory.data);
    free(jpeg->planes.data);
    free(jpeg);
}

size_t baseline_bytes(const Jpeg *jpeg) { return jpeg->memory.size + jpeg->planes.size; }

/* ---- decoding ---- */

/* The blocks of each component that a box needs, at a scale. */
static void find_parts(Jpeg *jpeg, int eighths, const int32_t *box, Plane *planes) {
    const JpegHeader *header = &jpeg->header;
    for (int i = 0; i < header->components; i++) {
        Component *part = jpeg->components + i;
        Plane *plane = planes + i;
        int half_x = i ? header->across : 1, half_y = i ? header->down : 1; /* how much coarser than luma it is stored */
        /* As libjpeg, take chroma of half resolution from an inverse DCT twice as large, if both axes allow it (jdmaster.c). */
        int larger = half_x == 2 && half_y == 2 && eighths < 8;
        part->size = eighths << larger;
        half_x >>= larger, half_y >>= larger;
        part->across = i ? 1 : header->across, part->down = i ? 1 : header->down;
        plane->full_height = (int)(((int64_t)header->height * eighths + 8 * half_y - 1) / (8 * half_y));
        plane->full_width = (int)(((int64_t)header->width * eighths + 8 * half_x - 1) / (8 * half_x));
        plane->scale_y = eighths / (8.0 * half_y), plane->scale_x = eighths / (8.0 * half_x);
        int smooth = eighths > 1 && plane->full_width > 2; /* jdsample.c */
        plane->fancy_y = smooth && half_y == 2, plane->fancy_x = smooth && half_x == 2;
        for (int axis = 0; axis < 2; axis++) {
            int half = axis ? half_x : half_y, fancy = axis ? plane->fancy_x : plane->fancy_y, full = axis ? plane->full_width : plane->full_height;
            int first = (int)((int64_t)box[axis] * eighths / 8), last = (int)(((int64_t)box[axis + 2] * eighths + 7) / 8) - 1;
            first = first / half - fancy, last = last / half + fancy;
            if (first < 0) first = 0;
            if (last > full - 1) last = full - 1;
            int from = first / part->size, to = last / part->size + 1, end = to * part->size < full ? to * part->size : full;
            if (axis)
                part->first_column = from, part->end_column = to, plane->left = from * part->size, plane->width = end - plane->left;
            else
                part->first_row = from, part->end_row = to, plane->top = from * part->size, plane->height = end - plane->top;
        }
    }
}

static int reserve_planes(Jpeg *jpeg, Plane *planes) {
    size_t total = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < jpeg->header.components; i++) {
            Component *part = jpeg->components + i;
            size_t stride = (size_t)(part->end_column - part->first_column) * part->size + PADDING;
            stride += -stride % 32;
            if (pass) part->stride = planes[i].stride = (ptrdiff_t)stride, planes[i].pixels = part->pixels = (uint8_t *)jpeg->planes.data + total;
            total += stride * (size_t)(part->end_row - part->first_row) * part->size;
        }
        if (pass == 0 && !reserve(&jpeg->planes, total)) return 0;
        total = 0;
    }
    return 1;
}

/* Bits of the clean data that are used. */
static int64_t used_bits(const Jpeg *jpeg) { return (jpeg->reader.at - jpeg->clean) * 8 - jpeg->reader.count; }

/* Whether all bits so far came from the data, not from the zeros after them. */
static int is_within(const Jpeg *jpeg) { return used_bits(jpeg) <= (jpeg->clean_end - jpeg->clean) * 8; }

/* Go over the marker between two intervals, T.81, E.1.4. */
static int restart(Jpeg *jpeg) {
    while (!jpeg->ended)
        if (!clean_more(jpeg)) return 0;
    int64_t left = (jpeg->clean_end - jpeg->clean) * 8 - used_bits(jpeg);
    if (left < 0 || left > 7 || jpeg->marker != 0xD0 + (jpeg->mcu / jpeg->header.restarts - 1) % 8) return 0;
    for (int i = 0; i < COMPONENTS; i++) jpeg->components[i].predictor = 0;
    return start_reading(jpeg, jpeg->next, 0);
}

/* Make sure that a block can be read without reading past the clean data. */
INLINE int has_block(Jpeg *jpeg) {
    while (jpeg->reader.at > jpeg->safe)
        if (!clean_more(jpeg)) return 0;
    return 1;
}

static int skip_block(Jpeg *jpeg, Component *part) {
    int16_t unused[BLOCK + 16];
    if (!has_block(jpeg)) return 0;
    if (part->ac->steps) return jpeg->variant->skip(&jpeg->reader, part) >= 0;
    return (part->ac->pairs ? jpeg->variant->two : jpeg->variant->one)(&jpeg->reader, part, unused) >= 0;
}

static int decode_block(Jpeg *jpeg, Component *part, uint8_t *to) {
    _Alignas(32) int16_t block[BLOCK + 16];
    if (!has_block(jpeg)) return 0;
    int last = 0;
    if (part->size == 1) {
        if (!skip_block(jpeg, part)) return 0;
    } else {
        memset(block, 0, BLOCK * sizeof *block);
        last = (part->ac->pairs ? jpeg->variant->two : jpeg->variant->one)(&jpeg->reader, part, block);
        if (last < 0) return 0;
    }
    /* Four times what samples give: DC that a wrong bit made. libjpeg's functions make different pixels of it, so they are asked. */
    int dc = (int16_t)part->predictor * part->quant[0];
    if (dc < -MOST_DC || dc >= MOST_DC) return 0;
    if (last == 0)
        fill_block(part->size, dc, to, part->stride);
    else
        jpeg->variant->idct[part->size](block, part->quant, to, part->stride);
    return 1;
}

/* Read the next MCU, and decode the blocks of it that the box needs; none if `skip`. */
static int read_mcu(Jpeg *jpeg, int skip) {
    const JpegHeader *header = &jpeg->header;
    if (header->restarts && jpeg->mcu && jpeg->mcu % header->restarts == 0 && !restart(jpeg)) return 0;
    int my = jpeg->mcu / header->mcus_across, mx = jpeg->mcu % header->mcus_across;
    jpeg->mcu++;
    for (int i = 0; i < header->components; i++) {
        Component *part = jpeg->components + i;
        for (int y = my * part->down; y < (my + 1) * part->down; y++)
            for (int x = mx * part->across; x < (mx + 1) * part->across; x++) {
                int row = y - part->first_row, column = x - part->first_column;
                if (skip || row < 0 || column < 0 || y >= part->end_row || x >= part->end_column) {
                    if (!skip_block(jpeg, part)) return 0;
                } else if (!decode_block(jpeg, part, part->pixels + (row * part->stride + column) * part->size))
                    return 0;
            }
    }
    return 1;
}

/* Start at the last mark that is not after an MCU, if that is worth it. */
static int use_mark(Jpeg *jpeg, const Marks *marks, int mcu) {
    size_t low = 0, high = marks ? marks->count : 0;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (marks->marks[middle].mcu <= mcu)
            low = middle + 1;
        else
            high = middle;
    }
    if (!low || jpeg->header.restarts) return 1;
    const Mark *mark = marks->marks + low - 1;
    if (mark->mcu <= jpeg->mcu + 1) return 1;
    if (mark->bit < 0 || mark->bit / 8 >= jpeg->end - jpeg->scan) return 0;
    jpeg->mcu = mark->mcu;
    for (int i = 0; i < COMPONENTS; i++) jpeg->components[i].predictor = (uint32_t)mark->dc[i];
    return start_reading(jpeg, jpeg->scan + mark->bit / 8, mark->bit % 8);
}

static void make_more_tables(Jpeg *jpeg) {
    size_t bytes = (size_t)(jpeg->end - jpeg->scan);
    for (int i = 0; i < jpeg->header.components; i++) {
        Huffman *ac = jpeg->components[i].ac;
        if (ac->bits == MAX_BITS && !ac->pairs) make_pairs(ac);
        if (bytes > STEP_BYTES && !ac->steps) make_steps(ac);
    }
}

static int start_scan(Jpeg *jpeg) {
    jpeg->mcu = 0;
    jpeg->variant = find_variant();
    make_more_tables(jpeg);
    for (int i = 0; i < COMPONENTS; i++) jpeg->components[i].predictor = 0;
    return start_reading(jpeg, jpeg->scan, 0);
}

int baseline_decode(Jpeg *jpeg, int eighths, const int32_t *box, const Marks *marks, Plane *planes) {
    const JpegHeader *header = &jpeg->header;
    if (!jpeg->scan || box[2] > header->height || box[3] > header->width) return NOT_FOR_US;
    find_parts(jpeg, eighths, box, planes);
    if (!reserve_planes(jpeg, planes)) return NO_MEMORY;
    if (!start_scan(jpeg)) return NOT_FOR_US;
    int first_row = header->mcus_down, end_row = 0, first_column = header->mcus_across, end_column = 0;
    for (int i = 0; i < header->components; i++) {
        const Component *part = jpeg->components + i;
        int rows = (part->end_row - 1) / part->down + 1, columns = (part->end_column - 1) / part->across + 1;
        if (part->first_row / part->down < first_row) first_row = part->first_row / part->down;
        if (part->first_column / part->across < first_column) first_column = part->first_column / part->across;
        if (rows > end_row) end_row = rows;
        if (columns > end_column) end_column = columns;
    }
    for (int row = first_row; row < end_row; row++) {
        int first = row * header->mcus_across + first_column, end = row * header->mcus_across + end_column;
        if (!use_mark(jpeg, marks, first)) return NOT_FOR_US;
        while (jpeg->mcu < first)
            if (!read_mcu(jpeg, 1)) return NOT_FOR_US;
        while (jpeg->mcu < end)
            if (!read_mcu(jpeg, 0)) return NOT_FOR_US;
        if (!is_within(jpeg)) return NOT_FOR_US;
    }
    return 0;
}

int baseline_is_whole(Jpeg *jpeg) {
    if (jpeg->mcu != jpeg->header.mcus_down * jpeg->header.mcus_across) return 0;
    while (!jpeg->ended)
        if (!clean_more(jpeg)) return 0;
    int64_t left = (jpeg->clean_end - jpeg->clean) * 8 - used_bits(jpeg);
    return left >= 0 && left < 8 && jpeg->marker == 0xD9;
}

int baseline_find_marks(Jpeg *jpeg, int rows, int columns, Mark *marks) {
    const JpegHeader *header = &jpeg->header;
    if (!jpeg->scan) return -NOT_FOR_US;
    if (header->restarts) return 0;
    if (!start_scan(jpeg)) return -NOT_FOR_US;
    int count = 0;
    int64_t counted = 0, stuffed = 0; /* each 0xFF of the clean data was followed by a zero in the file */
    for (int row = 0; row < header->mcus_down; row++)
        for (int column = 0; column < header->mcus_across; column++) {
            if (jpeg->mcu && row % rows == 0 && column % columns == 0) {
                int64_t used = used_bits(jpeg);
                if (!is_within(jpeg)) return -NOT_FOR_US;
                for (; counted < used / 8; counted++) stuffed += jpeg->clean[counted] == 0xFF;
                if (used + 8 * stuffed > INT32_MAX) return count;
                Mark *mark = marks + count++;
                *mark = (Mark){jpeg->mcu, (int32_t)(used + 8 * stuffed), {0}};
                for (int i = 0; i < header->components; i++) mark->dc[i] = (int32_t)jpeg->components[i].predictor;
            }
            if (!read_mcu(jpeg, 1)) return -NOT_FOR_US;
        }
    return is_within(jpeg) ? count : -NOT_FOR_US;
}
