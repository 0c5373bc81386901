/* The seek table of an image: every n-th MCU, where its bits begin and what its DC differences are added to. shards/FORMAT.md specifies it.
 *
 *   entry:  n (16 bits) │ width of bits (8) │ of luma's DC (4) │ of chroma's (4) │ marks of n, 2n, 3n, …: differences, each of its width
 *
 * Entries come from sets of other people: every number is checked here, and jpeg.c checks what a mark leads to.
 */
#include "seek.h"

enum { HEAD_BYTES = 4, LEAST_WIDTH = 8, MAX_BIT_WIDTH = 31, MAX_DC_WIDTH = 15, MAX_DC = 32767, MAX_MARKS = 1 << 18 };
enum { WIDE = 64 }; /* MCUs of a row, below which marks gain nothing (bench/LOG.md) */
enum { TABLE_HEAD_BYTES = 12, END_BYTES = 4 };
static const uint8_t MAGIC[8] = {'F', 'F', 'S', 'E', 'E', 'K', '1', '\n'};

static uint32_t zigzag(int32_t value) { return (uint32_t)value << 1 ^ (uint32_t)(value >> 31); }
static int32_t unzigzag(uint32_t value) { return (int32_t)(value >> 1) ^ -(int32_t)(value & 1); }

static int width_of(uint32_t values) {
    int width = 0;
    while (values >> width) width++; /* `values` is below 2^31: the shift stays below 32 */
    return width;
}

/* What a mark adds to the one before: bits, and DC values of three components. */
typedef struct {
    uint32_t bits, dc[3];
} Step;

/* Returns 0 if it is not representable. */
static int find_step(const Mark *from, const Mark *to, Step *step) {
    if (to->bit < from->bit) return 0;
    step->bits = (uint32_t)(to->bit - from->bit);
    for (int i = 0; i < 3; i++) {
        if (to->dc[i] > MAX_DC || to->dc[i] < -MAX_DC) return 0; /* hence the difference has 17 bits */
        step->dc[i] = zigzag(to->dc[i] - from->dc[i]);
    }
    return 1;
}

static void put(uint8_t *out, size_t *at, uint32_t value, int width) {
    for (int i = 0; i < width; i++, (*at)++) out[*at >> 3] |= (uint8_t)((value >> i & 1) << (*at & 7));
}

/* `width` (0 to 31) bits of `data`, lowest first, from bit `at`. The caller knows that they are inside of `size` bytes. */
static uint32_t get(const uint8_t *data, size_t size, size_t at, int width) {
    uint64_t word = 0;
    size_t byte = at >> 3, left = size - byte; /* byte <= size: with width 0 `at` may be the end */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (left >= 8)
        memcpy(&word, data + byte, 8);
    else
#endif
        for (size_t i = 0; i < 5 && i < left; i++) word |= (uint64_t)data[byte + i] << 8 * i; /* 7 + 31 bits are in 5 bytes */
    return (uint32_t)(word >> (at & 7)) & (((uint32_t)1 << width) - 1);
}

/* The entry of every `stride`-th mark, which is every n-th MCU; its size, or 0. */
static size_t pack_every(const Mark *marks, size_t count, size_t stride, size_t limit, uint8_t *out) {
    static const Mark start = {0};
    uint32_t bits = 0, luma = 0, chroma = 0;
    size_t number = count / stride, n = SEEK_NEAR * stride;
    const Mark *last = &start;
    Step step;
    if (!number || number > MAX_MARKS || n > 0xFFFF) return 0;
    for (size_t i = stride - 1; i < count; last = marks + i, i += stride) {
        if (!find_step(last, marks + i, &step)) return 0;
        bits |= step.bits, luma |= step.dc[0], chroma |= step.dc[1] | step.dc[2];
    }
    int bit_width = width_of(bits), luma_width = width_of(luma), chroma_width = width_of(chroma);
    if (bit_width < LEAST_WIDTH) bit_width = LEAST_WIDTH; /* an unfinished byte at the end is then less than a mark */
    if (luma_width > MAX_DC_WIDTH || chroma_width > MAX_DC_WIDTH) return 0;
    size_t size = HEAD_BYTES + (number * (bit_width + luma_width + 2 * chroma_width) + 7) / 8, at = 8 * HEAD_BYTES;
    if (size > limit) return 0;
    memset(out, 0, size);
    out[0] = (uint8_t)n, out[1] = (uint8_t)(n >> 8), out[2] = (uint8_t)bit_width, out[3] = (uint8_t)(luma_width | chroma_width << 4);
    last = &start;
    for (size_t i = stride - 1; i < count; last = marks + i, i += stride) {
        find_step(last, marks + i, &step);
        put(out, &at, step.bits, bit_width);
        put(out, &at, step.dc[0], luma_width);
        put(out, &at, step.dc[1], chroma_width);
        put(out, &at, step.dc[2], chroma_width);
    }
    return size;
}

int seek_is_wide(int across) { return across >= WIDE; }

size_t seek_pack(const Mark *marks, size_t count, size_t limit, uint8_t *out) {
    size_t size = 0;
    for (size_t stride = 1; stride <= count && !size; stride *= 2) size = pack_every(marks, count, stride, limit, out);
    return size;
}

/* Bits of a mark, or 0 if this is no entry. */
static int mark_width(const uint8_t *entry, size_t size) {
    if (size < HEAD_BYTES || !(entry[0] | entry[1]) || entry[2] < LEAST_WIDTH || entry[2] > MAX_BIT_WIDTH) return 0;
    return entry[2] + (entry[3] & 15) + 2 * (entry[3] >> 4);
}

size_t seek_count(const uint8_t *entry, size_t size) {
    int width = mark_width(entry, size);
    size_t count = width ? (size - HEAD_BYTES) * 8 / width : 0; /* entries are in tables, of which numbers of 32 bits say where they end */
    return count <= MAX_MARKS ? count : 0;
}

size_t seek_unpack(const uint8_t *entry, size_t size, Mark *marks, size_t most) {
    uint8_t head[HEAD_BYTES]; /* read once, and not more marks than there is room for: somebody may write to the file below its memory map */
    if (size < sizeof head) return 0;
    memcpy(head, entry, sizeof head);
    int width = mark_width(head, size);
    size_t count = width ? (size - sizeof head) * 8 / width : 0, at = 8 * sizeof head, i = 0;
    if (count > most) count = most;
    int64_t n = head[0] | head[1] << 8, mcu = 0, bit = 0;
    int widths[3] = {head[3] & 15, head[3] >> 4, head[3] >> 4};
    int32_t dc[3] = {0, 0, 0};
    for (; i < count; i++) {
        mcu += n, bit += get(entry, size, at, head[2]), at += head[2];
        if (mcu > INT32_MAX || bit > INT32_MAX) return i;
        marks[i].mcu = (int32_t)mcu, marks[i].bit = (int32_t)bit;
        for (int k = 0; k < 3; at += widths[k], k++) {
            dc[k] += unzigzag(get(entry, size, at, widths[k])); /* of 15 bits at most, and 16 before: no overflow */
            if (dc[k] > MAX_DC || dc[k] < -MAX_DC) return i;
            marks[i].dc[k] = dc[k];
        }
    }
    return i;
}

static uint32_t number_at(const uint8_t *data) {
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
}

size_t seek_find(const uint8_t *table, size_t size, size_t place, const uint8_t **entry) {
    if (size < TABLE_HEAD_BYTES || memcmp(table, MAGIC, sizeof MAGIC)) return 0;
    size_t count = number_at(table + sizeof MAGIC);
    if (place >= count || count > (size - TABLE_HEAD_BYTES) / END_BYTES) return 0; /* hence all ends are inside of the table */
    const uint8_t *end = table + TABLE_HEAD_BYTES + place * END_BYTES;
    size_t head = TABLE_HEAD_BYTES + count * END_BYTES, from = place ? number_at(end - END_BYTES) : 0, to = number_at(end);
    if (from > to || to > size - head) return 0;
    *entry = table + head + from;
    return to - from;
}
