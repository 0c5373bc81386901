/* A decoder of our own for plain baseline JPEGs, which decodes only the part that a box needs, to one plane for each component.
 *
 *   header ─► tables ─► clean bytes (no stuffing) ─► codes of a run of blocks ─► idct.c: the blocks that the box touches ─► planes
 *                                                    └► blocks outside of the box: stepped over
 *
 * ITU-T T.81 is the standard; its figures are named where they are followed. What is rare or damaged is left to libjpeg-turbo, which
 * then says what is wrong (NOT_FOR_US).
 */
#include "jpeg.h"

#include "idct.h"
#include "turbo.h"

enum {
    COMPONENTS = 3,
    DC_BITS = 9,    /* of the look-ups: 2^bits entries. With more, the tables of an image leave no room in the first cache. */
    AC_BITS = 11,
    SMALL_BITS = 9, /* of AC in images of less than SMALL_BYTES, where making the tables takes most of the time */
    SMALL_BYTES = 6000,
    STEP_BITS = 12, /* of a look-up that steps over several codes; made for scans of more than STEP_BYTES */
    STEP_BYTES = 40000,
    KEPT_TABLES = 4, /* of each kind */
    MOST_TABLES = 64, /* in a header: each takes a microsecond to make, of as little as 17 bytes */
    CHUNK = 8192,    /* bytes cleaned at once */
    RUN = 24,        /* blocks read at once, at most: whole MCUs of every sampling */
    /* A block has at most 64 codes of at most 16 bits, with values of at most 11: 216 bytes. Reading is up to 16 bytes ahead. */
    RUN_BYTES = RUN * 216 + 16,
    MOST_DC = 4096,
    PADDING = 64, /* bytes after the lines of a plane, which whole registers may read */
};

/* Steps to coefficients. The end of a block is a step past all of them. After a step from 62 or less, of at most 16 + END_OF_BLOCK (a pair)
 * or 47 + END_OF_BLOCK (steps), the number is below 256. */
enum { END_OF_BLOCK = 128, LONGEST_STEPS = 47, NUMBERS = 256 };

/* The places in a slot, by the number of a coefficient: UNUSED after the end of a block, LAST and MANY where a block ends without one. */
enum { UNUSED = 7, FIRST = 8, LAST = FIRST + 63, MANY = LAST + 1 };

/* What follows in the data, by its first bits: a code, or several. From the lowest bits: all their bits, with those of their values (8), the
 * steps of all (8), the bits before the value of the last (8), 63 less its size (8), the value of the first (16), the step of the first (8),
 * its bits with its value (7), and whether the last ends the block (1). 0: the code is longer than the look-up.
 * One code alone is first and last; its value is written twice, the second time right. In steps, `first` is all but the last. */
typedef uint64_t Entry;

static const Entry ENDS = (Entry)1 << 63;

typedef struct {
    uint8_t counts[16], symbols[256];       /* as in the file */
    int total, bits, has_pairs, has_steps;  /* symbols; of the look-up; what is made */
    uint32_t limit[18];                     /* of codes of each length, left-aligned in 16 bits (T.81, F.16) */
    int32_t offset[17];
    Entry entry[1 << AC_BITS], steps[1 << STEP_BITS];
} Huffman;

/* The next bits of the clean data, from the top of a register. At least 56 are there after `refill`. */
typedef struct {
    uint64_t bits;
    int count;
    const uint8_t *at;
} Bits;

typedef struct {
    Huffman *dc, *ac;
    int number, across, down, quant_number;
    const int16_t *quant;
    int size;                                         /* of a decoded block */
    int first_column, end_column, first_row, end_row; /* blocks that the box needs */
    uint8_t *pixels;
    ptrdiff_t stride;
    uint32_t predictor; /* sums wrap */
} Component;

/* A block of a run, at whole 16 bytes, as malloc gives. The tables are those of its AC codes, and of the DC code of the block after it. */
typedef struct {
    _Alignas(16) int16_t coefficients[80]; /* from FIRST on, in natural order; the first is a difference. Zeros between runs. */
    const Entry *ac, *next_dc;
    const Component *part;
} Slot;

typedef int ReadRun(Bits *, Slot *before, const Slot *end);

struct Jpeg {
    JpegHeader header;
    Component components[COMPONENTS];
    _Alignas(16) int16_t quant[4][BLOCK]; /* in natural order */
    int has_quant;                        /* a bit for each */
    Huffman *current[2][4];
    Huffman *kept[2][KEPT_TABLES];
    int next_kept[2];
    int tables; /* in this header */
    int jfif, adobe; /* Adobe's transform, or -1 */
    const uint8_t *scan, *end;
    Buffer memory, planes;
    uint8_t *clean, *clean_end; /* clean data, and RUN_BYTES zeros where they ended */
    const uint8_t *next;        /* of the file: the first byte that is not cleaned yet */
    int ended, marker;          /* the data ended, before this marker */
    Bits reader;
    int mcu; /* the next one */
    int blocks_of_mcu, run_mcus;
    ReadRun *read, *step;
    Slot slots[2][1 + RUN]; /* to read, and to step over; one before the first, for the first DC table */
};

/* Places by number, in the order of T.81, figure A.6: for reading, and for stepping over all but DC. */
static const uint8_t places[2][NUMBERS] = {
    {8, 9, 16, 24, 17, 10, 11, 18, 25, 32, 40, 33, 26, 19, 12, 13,
     20, 27, 34, 41, 48, 56, 49, 42, 35, 28, 21, 14, 15, 22, 29, 36,
     43, 50, 57, 64, 65, 58, 51, 44, 37, 30, 23, 31, 38, 45, 52, 59,
     66, 67, 60, 53, 46, 39, 47, 54, 61, 68, 69, 62, 55, 63, 70, 71,
     [BLOCK ... END_OF_BLOCK - 1] = MANY, [END_OF_BLOCK ... END_OF_BLOCK + BLOCK - 2] = UNUSED, [END_OF_BLOCK + BLOCK - 1 ... NUMBERS - 1] = MANY},
    {FIRST, [1 ... BLOCK - 2] = UNUSED, [BLOCK - 1] = LAST, [BLOCK ... END_OF_BLOCK - 1] = MANY,
     [END_OF_BLOCK ... END_OF_BLOCK + BLOCK - 2] = UNUSED, [END_OF_BLOCK + BLOCK - 1 ... NUMBERS - 1] = MANY},
};

/* ---- tables ---- */

/* An entry of one code. DC steps from -1 to 0. */
static Entry alone(int length, int symbol, int is_dc) {
    int size = symbol & 15, ends = !is_dc && symbol == 0, step = is_dc ? 1 : ends ? END_OF_BLOCK : (symbol >> 4) + 1;
    Entry entry = (Entry)(length + size) | (Entry)step << 8 | (Entry)length << 16 | (Entry)(63 - size) << 24;
    return entry | (Entry)(ends ? BLOCK : step) << 48 | (Entry)(length + size) << 56 | (ends ? ENDS : 0);
}

/* Fill a look-up with the codes that fit it, in their order, so that each entry is written once. */
static void fill_codes(const Huffman *table, Entry *at, int bits, int is_dc) {
    Entry *end = at + ((size_t)1 << bits);
    int number = 0;
    for (int length = 1; length <= bits; length++)
        for (int i = 0; i < table->counts[length - 1]; i++) {
            Entry entry = alone(length, table->symbols[number++], is_dc);
            /* Codes of a prefix code, all of which `make_table` found to exist, fill at most all equal parts of the look-up. */
            for (Entry *last = at + ((size_t)1 << (bits - length)); at < last; at++) *at = entry;
        }
    memset(at, 0, (size_t)(end - at) * sizeof *at);
}

/* Make the look-up of one table. Returns 0 for a table that no baseline encoder makes, and for one that has a code of ones alone, which
 * libjpeg refuses. */
static int make_table(Huffman *table, int is_dc) {
    uint32_t code = 0;
    int number = 0, most = is_dc ? 11 : 10; /* bits of a value (T.81, F.1 and F.2, for 8 bits a sample) */
    for (int length = 1; length <= 16; length++, code <<= 1) {
        table->offset[length] = number - (int32_t)code;
        for (int i = 0; i < table->counts[length - 1]; i++, number++, code++) {
            int symbol = table->symbols[number], size = symbol & 15;
            if (code + 1 >= 1u << length || size > most || (is_dc ? symbol > most : size == 0 && symbol != 0 && symbol != 0xF0)) return 0;
        }
        table->limit[length] = code << (16 - length);
    }
    table->limit[17] = UINT32_MAX;
    fill_codes(table, table->entry, table->bits, is_dc);
    table->has_pairs = table->has_steps = 0;
    return 1;
}

/* Two codes at once, where the look-up holds the first with its value, and the second. */
static void make_pairs(Huffman *table) {
    Entry one[1 << AC_BITS];
    memcpy(one, table->entry, sizeof one);
    for (uint32_t i = 0; i < 1 << AC_BITS; i++) {
        uint32_t bits = one[i] & 255, size = 63 - (one[i] >> 24 & 255);
        if (!one[i] || one[i] & ENDS || bits >= AC_BITS) continue;
        Entry second = one[i << bits & ((1 << AC_BITS) - 1)];
        if (!second || bits + (second >> 16 & 255) > AC_BITS) continue;
        int32_t value = (int32_t)(i >> (AC_BITS - bits) & ((1u << size) - 1)); /* T.81, F.12 */
        if (size && value < 1 << (size - 1)) value -= (1 << size) - 1;
        Entry both = (second & 0xFF000000) + ((second & 255) + bits) + (((second >> 8 & 255) + (one[i] >> 8 & 255)) << 8);
        both += ((second >> 16 & 255) + bits) << 16;
        table->entry[i] = both | (Entry)(uint16_t)value << 32 | (one[i] >> 8 & 255) << 48 | (Entry)bits << 56 | (second & ENDS);
    }
    table->has_pairs = 1;
}

/* As many codes at once as begin within the look-up. */
static void make_steps(Huffman *table) {
    Entry one[1 << STEP_BITS];
    fill_codes(table, one, STEP_BITS, 0);
    for (uint32_t i = 0; i < 1 << STEP_BITS; i++) {
        Entry bits = one[i] & 255, steps = one[i] >> 8 & 255, before = 0, last = one[i];
        while (last && !(last & ENDS) && bits < STEP_BITS && steps <= LONGEST_STEPS) {
            Entry next = one[i << bits & ((1 << STEP_BITS) - 1)];
            if (!next || bits + (next >> 16 & 255) > STEP_BITS) break;
            before = steps;
            steps += next >> 8 & 255;
            bits += next & 255;
            last = next;
        }
        table->steps[i] = last ? bits | steps << 8 | (Entry)63 << 24 | before << 48 | (last & ENDS) : 0;
    }
    table->has_steps = 1;
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
    if (jpeg->ended) memset(to, 0, RUN_BYTES + 16);
    return 1;
}

/* Start reading at a byte of the file, `bit` bits into it. */
static int start_reading(Jpeg *jpeg, const uint8_t *from, int bit) {
    jpeg->next = from;
    jpeg->ended = 0;
    jpeg->clean_end = jpeg->clean = jpeg->memory.data;
    jpeg->reader = (Bits){0, -bit, jpeg->clean};
    while (!jpeg->ended && jpeg->clean_end - jpeg->clean < 8)
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

INLINE void drop(Bits *b, Entry bits) {
    b->bits <<= bits & 63;
    b->count -= (int)bits;
}

/* The entry of a code that is longer than its look-up of some bits; 0 if there is none. */
static Entry find_long(const Bits *b, const Huffman *table, int is_dc) {
    uint32_t peek = (uint32_t)(b->bits >> 48);
    int length = table->bits + 1;
    while (peek >= table->limit[length]) length++; /* the 17th is above every code */
    if (length > 16) return 0;
    /* Below the limit of this length and not below that of the one before: a code of this length, so a symbol of the table. */
    return alone(length, table->symbols[(int32_t)(peek >> (16 - length)) + table->offset[length]], is_dc);
}

/* `second` where `condition` is negative, without a jump, which nobody could foresee. */
INLINE Entry choose(Entry first, Entry second, int64_t condition) {
#if HAS_X86
    __asm__("test %1, %1\n\tcmovs %2, %0" : "+r"(first) : "r"(condition), "r"(second) : "cc");
    return first;
#else
    return first ^ ((first ^ second) & (Entry)(condition >> 63));
#endif
}

/* Read the codes of a run of blocks into its slots, or step over all but their DC codes. Blocks end where nobody can foresee it, and a jump that was
 * foreseen wrong costs as much as two codes: so the look-ups of the next AC code and of the next block's DC code are both made, and one of
 * them is taken. k is the number of the last coefficient, -1 before DC. Returns 0 for damaged data. */
INLINE int read_run(Bits *reader, Slot *slot, const Slot *end, const int ac_bits, const int stepping) {
    const uint8_t *const place = places[stepping];
    const Entry *ac = slot->ac, *next_dc = slot->next_dc;
    Bits b = *reader;
    Entry entry = ENDS;
    int64_t k = BLOCK - 1;
    for (;;) {
        refill(&b);
        for (int i = 0; i < 2; i++) { /* at most 12 bits and a value of 10, or a code of at most 27: 54 in all */
            Entry more = ac[b.bits >> (64 - ac_bits)], other = next_dc[b.bits >> (64 - DC_BITS)];
            int64_t ended = (int64_t)entry >> 63;
            slot = (Slot *)((char *)slot + ((int64_t)sizeof *slot & ended));
            if (slot == end) goto done;
            k |= ended; /* -1 */
            entry = choose(more, other, (int64_t)entry);
            if (__builtin_expect(!(entry & 255), 0)) {
                entry = k < 0 ? find_long(&b, slot->part->dc, 1) : find_long(&b, slot->part->ac, 0);
                if (!entry) return 0;
            }
            int64_t first = k + (int64_t)(entry >> 48 & 255);
            k += (int64_t)(entry >> 8 & 255);
            unsigned last = place[k];
            if (!stepping) slot->coefficients[place[first]] = (int16_t)(entry >> 32);
            /* T.81, F.12: a value whose first bit is 0 is the negative of what its other bits are, inverted. */
            uint64_t value = b.bits << (entry >> 16 & 63);
            uint64_t negative = ~(uint64_t)((int64_t)value >> 63);
            value = (value ^ negative) >> 1 >> (entry >> 24 & 63);
            slot->coefficients[last] = (int16_t)((value ^ negative) - negative);
            ac = slot->ac, next_dc = slot->next_dc;
            if (__builtin_expect(last >= LAST, 0)) { /* rare: the block ends without a code for it */
                if (stepping && first >= BLOCK - 1) { /* some of the codes are of the next block: one by one */
                    k -= (int64_t)(entry >> 8 & 255);
                    const Huffman *table = slot->part->ac;
                    entry = table->entry[b.bits >> (64 - AC_BITS)];
                    if (!entry && !(entry = find_long(&b, table, 0))) return 0;
                    first = k + (int64_t)(entry >> 48 & 255), k += (int64_t)(entry >> 8 & 255);
                    if (first != BLOCK - 1 && place[k] < LAST) {
                        drop(&b, entry & 255);
                        continue;
                    }
                }
                if (first == BLOCK - 1 && k != first) /* the second code is of the next block; its value went past the last place */
                    drop(&b, entry >> 56 & 127);
                else if (k == BLOCK - 1)
                    drop(&b, entry & 255);
                else
                    return 0;
                entry = ENDS;
                continue;
            }
            drop(&b, entry & 255);
        }
    }
done:
    *reader = b;
    return 1;
}

#define VARIANT(name, target)                                                                                                                 \
    target static int read_##name(Bits *b, Slot *slot, const Slot *end) { return read_run(b, slot, end, AC_BITS, 0); }                        \
    target static int small_##name(Bits *b, Slot *slot, const Slot *end) { return read_run(b, slot, end, SMALL_BITS, 0); }                    \
    target static int step_##name(Bits *b, Slot *slot, const Slot *end) { return read_run(b, slot, end, STEP_BITS, 1); }

VARIANT(plain, )
#if HAS_X86
VARIANT(avx2, FOR_AVX2)
#endif

static void find_variant(Jpeg *jpeg, int is_small) {
    jpeg->read = is_small ? small_plain : read_plain, jpeg->step = step_plain;
#if HAS_X86
    if (find_simd_level() >= SIMD_AVX2) jpeg->read = is_small ? small_avx2 : read_avx2, jpeg->step = step_avx2;
#endif
}

/* ---- header ---- */

static unsigned read_16(const uint8_t *at) { return (unsigned)at[0] << 8 | at[1]; }

/* DQT, T.81, B.2.4.1. Each of these returns 0, NOT_FOR_US or NO_MEMORY for the body of one segment. */
static int read_quant(Jpeg *jpeg, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at += 1 + BLOCK) {
        int number = at[0];
        if (end - at < 1 + BLOCK || number > 3) return NOT_FOR_US; /* 16 bits, or a table that does not exist */
        for (int k = 0; k < BLOCK; k++) jpeg->quant[number][places[0][k] - FIRST] = at[1 + k];
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
        if (kind > 1 || number > 1 || total > 256 || end - at < 17 + total || ++jpeg->tables > MOST_TABLES) return NOT_FOR_US;
        Huffman *table = find_table(jpeg, kind, counts, at + 17, total, kind == 0 ? DC_BITS : bits);
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
        case 0xC4: return read_tables(jpeg, at, end, size < SMALL_BYTES ? SMALL_BITS : AC_BITS);
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
    jpeg->has_quant = jpeg->jfif = jpeg->tables = 0, jpeg->adobe = jpeg->header.turned = -1;
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
            if (!reserve(&jpeg->memory, (size_t)(end - at) + RUN_BYTES + 16)) return NO_MEMORY;
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

/* Set the tables of the slots: those of each MCU in turn. */
static void set_slots(Jpeg *jpeg) {
    const JpegHeader *header = &jpeg->header;
    const Component *parts[6];
    int blocks = 0, stepping = 1;
    for (int i = 0; i < header->components; i++) {
        const Component *part = jpeg->components + i;
        stepping &= part->ac->has_steps;
        for (int k = 0; k < (i ? 1 : header->across * header->down); k++) parts[blocks++] = part;
    }
    jpeg->blocks_of_mcu = blocks;
    jpeg->run_mcus = RUN / blocks;
    for (int kind = 0; kind <= stepping; kind++)
        for (int i = 0; i <= RUN; i++) {
            Slot *slot = jpeg->slots[kind] + i;
            slot->part = parts[(i + blocks - 1) % blocks]; /* slot 1 is the first block */
            slot->ac = kind ? slot->part->ac->steps : slot->part->ac->entry;
            slot->next_dc = parts[i % blocks]->dc->entry;
        }
    if (!stepping) jpeg->step = NULL;
}

/* What must be made of a run. */
typedef struct {
    Block blocks[2][RUN]; /* luma, chroma */
    int count[2];
} Jobs;

/* Whether a block has coefficients besides the first. */
INLINE int has_others(const int16_t *coefficients) {
#if HAS_X86
    const __m128i *eight = (const __m128i *)coefficients;
    __m128i others = _mm_srli_si128(_mm_load_si128(eight), 2);
    for (int i = 1; i < BLOCK / 8; i++) others = _mm_or_si128(others, _mm_load_si128(eight + i));
    return _mm_movemask_epi8(_mm_cmpeq_epi8(others, _mm_setzero_si128())) != 0xFFFF;
#else
    int others = 0;
    for (int i = 1; i < BLOCK; i++) others |= coefficients[i];
    return others != 0;
#endif
}

/* memset is slow for as little as this (rep stos). */
INLINE void clear(int16_t *coefficients) {
#if HAS_X86
    for (int i = 0; i < BLOCK; i += 8) _mm_store_si128((__m128i *)(coefficients + i), _mm_setzero_si128());
#else
    memset(coefficients, 0, BLOCK * sizeof *coefficients);
#endif
}

/* Add the DC difference of a block, and note what must be made of it at a row and a column of its component. */
static int finish_block(Component *part, Slot *slot, Jobs *jobs, int is_chroma, int row, int column) {
    int16_t *coefficients = slot->coefficients + FIRST;
    part->predictor += (uint32_t)coefficients[0];
    if (row < part->first_row || column < part->first_column || row >= part->end_row || column >= part->end_column) return 1;
    /* Four times what samples give: DC that a wrong bit made. libjpeg's functions make different pixels of it, so they are asked. */
    int dc = (int16_t)part->predictor * part->quant[0];
    if (dc < -MOST_DC || dc >= MOST_DC) return 0;
    uint8_t *to = part->pixels + ((row - part->first_row) * part->stride + (column - part->first_column)) * part->size;
    if (part->size == 1 || !has_others(coefficients)) {
        fill_block(part->size, dc, to, part->stride);
        return 1;
    }
    coefficients[0] = (int16_t)part->predictor;
    jobs->blocks[is_chroma][jobs->count[is_chroma]++] = (Block){coefficients, part->quant, to, part->stride};
    return 1;
}

/* Decode the blocks of a run that the box needs. */
static int finish_run(Jpeg *jpeg, int mcus) {
    Jobs jobs;
    jobs.count[0] = jobs.count[1] = 0;
    Slot *slot = jpeg->slots[0] + 1;
    for (int mcu = jpeg->mcu; mcu < jpeg->mcu + mcus; mcu++) {
        int my = mcu / jpeg->header.mcus_across, mx = mcu % jpeg->header.mcus_across;
        for (int i = 0; i < jpeg->header.components; i++) {
            Component *part = jpeg->components + i;
            for (int y = 0; y < part->down; y++)
                for (int x = 0; x < part->across; x++)
                    if (!finish_block(part, slot++, &jobs, i > 0, my * part->down + y, mx * part->across + x)) return 0;
        }
    }
    for (int i = 0; i < 2; i++)
        if (jobs.count[i]) idct(jpeg->components[i].size, jobs.blocks[i], jobs.count[i]);
    return 1;
}

/* Add the DC differences of a run that was stepped over. */
static void finish_steps(Jpeg *jpeg, const Slot *slot, int mcus) {
    for (int i = 0; i < mcus * jpeg->blocks_of_mcu; i++, slot++) {
        Component *part = jpeg->components + (slot->part - jpeg->components);
        part->predictor += (uint32_t)slot->coefficients[FIRST];
    }
}

/* Read up to an MCU, and decode what the box needs; nothing if `skip`. Returns 0 for damaged data. */
static int read_mcus(Jpeg *jpeg, int end, int skip) {
    int restarts = jpeg->header.restarts, kind = skip && jpeg->step;
    Slot *slots = jpeg->slots[kind];
    while (jpeg->mcu < end) {
        int mcus = end - jpeg->mcu < jpeg->run_mcus ? end - jpeg->mcu : jpeg->run_mcus;
        if (restarts) {
            if (jpeg->mcu && jpeg->mcu % restarts == 0 && !restart(jpeg)) return 0;
            if (mcus > restarts - jpeg->mcu % restarts) mcus = restarts - jpeg->mcu % restarts;
        }
        while (!jpeg->ended && jpeg->clean_end - jpeg->reader.at < RUN_BYTES)
            if (!clean_more(jpeg)) return 0;
        /* Reading is up to 8 bytes ahead of what is used; RUN_BYTES more are clean data or zeros. */
        if (jpeg->reader.at > jpeg->clean_end + 8) return 0;
        int blocks = mcus * jpeg->blocks_of_mcu;
        int ok = (kind ? jpeg->step : jpeg->read)(&jpeg->reader, slots, slots + 1 + blocks);
        if (ok && skip)
            finish_steps(jpeg, slots + 1, mcus);
        else if (ok)
            ok = finish_run(jpeg, mcus);
        for (Slot *slot = slots + 1; slot <= slots + blocks && !kind; slot++) clear(slot->coefficients + FIRST);
        if (!ok) return 0;
        jpeg->mcu += mcus;
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
        if (ac->bits == AC_BITS && !ac->has_pairs) make_pairs(ac);
        if (ac->bits == AC_BITS && bytes > STEP_BYTES && !ac->has_steps) make_steps(ac);
    }
}

static int start_scan(Jpeg *jpeg) {
    jpeg->mcu = 0;
    make_more_tables(jpeg);
    find_variant(jpeg, jpeg->components[0].ac->bits != AC_BITS);
    set_slots(jpeg);
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
        if (!read_mcus(jpeg, first, 1) || !read_mcus(jpeg, end, 0)) return NOT_FOR_US;
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

int baseline_find_marks(Jpeg *jpeg, int every, Mark *marks) {
    const JpegHeader *header = &jpeg->header;
    if (!jpeg->scan) return -NOT_FOR_US;
    if (header->restarts) return 0;
    if (!start_scan(jpeg)) return -NOT_FOR_US;
    int count = 0, all = header->mcus_down * header->mcus_across;
    int64_t counted = 0, stuffed = 0; /* each 0xFF of the clean data was followed by a zero in the file */
    while (all - jpeg->mcu > every) {
        if (!read_mcus(jpeg, jpeg->mcu + every, 1) || !is_within(jpeg)) return -NOT_FOR_US;
        int64_t used = used_bits(jpeg);
        for (; counted < used / 8; counted++) stuffed += jpeg->clean[counted] == 0xFF;
        if (used + 8 * stuffed > INT32_MAX) return count;
        Mark *mark = marks + count++;
        *mark = (Mark){jpeg->mcu, (int32_t)(used + 8 * stuffed), {0}};
        for (int i = 0; i < header->components; i++) mark->dc[i] = (int32_t)jpeg->components[i].predictor;
    }
    return read_mcus(jpeg, all, 1) && is_within(jpeg) ? count : -NOT_FOR_US;
}
