/* Fuzzes our own JPEG decoder without Python, in one process; tools/fuzz_jpeg.py builds it with sanitizers and runs it.
 *
 *   corpus ─► mutate ─► header ─► decode: any box, scale and marks ─► resize, RGB ─► the same again in other ways, compared
 *
 * What runs in a batch depends on the seed and the number of the batch alone. Beside what sanitizers report, these must be equal: a box and
 * the same part of the whole image, with marks and without, a decoder that has seen other images and a new one, and, where our decoder finds
 * no damage in a whole image, libjpeg's planes (not with -DWITHOUT_LIBJPEG, which MemorySanitizer needs).
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "jpeg.h"
#include "resample.h"
#include "rgb.h"
#if __has_include("seek.h")
#include "seek.h"
#define HAS_SEEK 1
#else
#define HAS_SEEK 0
#endif
#ifndef WITHOUT_LIBJPEG
#include <setjmp.h>

#include <jpeglib.h>
#endif

enum {
    BATCH = 256, MAX_FILES = 4096, MAX_BYTES = 6000, ROOM = 16384, MAX_PIXELS = 1 << 18, HANGS_S = 60,
    PADDED = 45000, /* a file of this size is read with other tables than a small one */
};

/* Random numbers: splitmix64, or the last bytes of what libFuzzer made. */
typedef struct {
    uint64_t state;
} Random;

static uint32_t below(Random *random, uint32_t end) {
    uint64_t x = random->state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return end ? (uint32_t)((x ^ x >> 31) >> 32) % end : 0;
}

static uint64_t seed, batch;
static const uint8_t *input; /* of this run */
static size_t input_size;

/* Say how to repeat it; FUZZ_INPUT names a file for the input itself. */
static void say_batch(void) {
    FILE *file = getenv("FUZZ_INPUT") ? fopen(getenv("FUZZ_INPUT"), "wb") : NULL;
    if (file && input) fwrite(input, 1, input_size, file), fclose(file);
    fprintf(stderr, "\nfailed in batch %llu: repeat with --seed %llu --first %llu --batches 1\n", (unsigned long long)batch,
            (unsigned long long)seed, (unsigned long long)batch);
}

static void hangs(int number) {
    (void)number;
    fprintf(stderr, "no batch ended for %d s\n", HANGS_S);
    say_batch();
    abort();
}

/* Not a sanitizer's report, but as bad. */
static void require(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "wrong: %s\n", what);
    say_batch();
    abort();
}

/* Mutations. */

typedef struct {
    uint8_t *data;
    size_t size;
} File;

static File corpus[MAX_FILES];
static size_t files;

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void read_corpus(const char *folder) {
    char path[4096], *names[MAX_FILES];
    size_t count = 0;
    DIR *opened = opendir(folder);
    require(opened != NULL, "the folder of the corpus cannot be read");
    for (struct dirent *entry; (entry = readdir(opened)) && count < MAX_FILES;)
        if (entry->d_name[0] != '.') names[count++] = strdup(entry->d_name);
    closedir(opened);
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        FILE *file = fopen(path, "rb");
        require(file != NULL, "a file of the corpus cannot be read");
        uint8_t *data = malloc(MAX_BYTES + 1);
        size_t size = fread(data, 1, MAX_BYTES + 1, file);
        fclose(file);
        free(names[i]);
        if (size > 4 && size <= MAX_BYTES)
            corpus[files++] = (File){data, size};
        else
            free(data);
    }
    require(files > 0, "no file of the corpus is small enough");
}

/* The smaller of two: most runs should be quick. */
static const File *draw_file(Random *random) {
    const File *a = corpus + below(random, (uint32_t)files), *b = corpus + below(random, (uint32_t)files);
    return a->size < b->size ? a : b;
}

typedef struct {
    size_t at, size; /* from the marker's 0xFF on */
} Segment;

/* The segments up to the first scan's, as far as they make sense; at least one is made up. */
static int find_segments(const uint8_t *data, size_t size, Segment *found, int most) {
    int count = 0;
    size_t at = 2;
    while (count < most && at + 4 <= size && data[at] == 0xFF) {
        while (at + 5 <= size && data[at + 1] == 0xFF) at++;
        size_t length = 2 + ((size_t)data[at + 2] << 8 | data[at + 3]);
        if (at + length > size) break;
        found[count++] = (Segment){at, length};
        if (data[at + 1] == 0xDA) break;
        at += length;
    }
    if (!count) found[count++] = (Segment){0, size < 4 ? size : 4};
    return count;
}

/* Put `size` bytes in the place of `old` bytes, as far as there is room. */
static void splice(File *to, size_t at, size_t old, const uint8_t *from, size_t size) {
    if (at > to->size) at = to->size;
    if (old > to->size - at) old = to->size - at;
    if (to->size - old + size > ROOM) return;
    memmove(to->data + at + size, to->data + at + old, to->size - at - old);
    memcpy(to->data + at, from, size);
    to->size += size - old;
}

static uint8_t odd_byte(Random *random) {
    static const uint8_t odd[] = {0, 1, 2, 0x11, 0x21, 0x22, 0x41, 0x7F, 0x80, 0xF0, 0xFE, 0xFF};
    return below(random, 2) ? odd[below(random, sizeof odd)] : (uint8_t)below(random, 256);
}

static const Segment *find_marker(const File *file, const Segment *segments, int count, int low, int high, Random *random) {
    const Segment *chosen = NULL;
    for (int i = 0, seen = 0; i < count; i++) {
        int marker = segments[i].at + 1 < file->size ? file->data[segments[i].at + 1] : 0;
        if (marker >= low && marker <= high && below(random, (uint32_t)++seen) == 0) chosen = segments + i;
    }
    return chosen;
}

static void set_byte(File *file, size_t at, uint8_t value) {
    if (at < file->size) file->data[at] = value;
}

static void mutate_segments(File *file, int how, Random *random) {
    Segment mine[64], theirs[64];
    int count = find_segments(file->data, file->size, mine, 64);
    const Segment *one = mine + below(random, (uint32_t)count), *kind;
    const File *other = draw_file(random);
    const Segment *another = theirs + below(random, (uint32_t)find_segments(other->data, other->size, theirs, 64));
    const uint8_t ends[] = {0, 1, 2, (uint8_t)(one->size - 1), (uint8_t)(one->size - 3), (uint8_t)below(random, 256)};
    size_t scan = mine[count - 1].at + mine[count - 1].size, their_scan;
    switch (how) {
        case 0: set_byte(file, one->at + 2 + below(random, one->size < 24 ? (uint32_t)one->size : 24), odd_byte(random)); break;
        case 1: set_byte(file, one->at + 3, ends[below(random, sizeof ends)]), set_byte(file, one->at + 2, below(random, 8) ? 0 : 0xFF); break;
        case 2: splice(file, one->at, 0, other->data + another->at, another->size); break;
        case 3: splice(file, one->at, one->size, other->data + another->at, another->size); break;
        case 4: splice(file, one->at, one->size, file->data, 0); break;
        case 5: /* Huffman tables: how many codes there are, and which */
            if ((kind = find_marker(file, mine, count, 0xC4, 0xC4, random)))
                set_byte(file, kind->at + 4 + below(random, below(random, 2) ? 17 : (uint32_t)kind->size), odd_byte(random));
            break;
        case 6: /* a frame of another size, or with other sampling */
            if ((kind = find_marker(file, mine, count, 0xC0, 0xC2, random))) {
                size_t at = kind->at + 5 + 2 * below(random, 2);
                if (below(random, 2))
                    set_byte(file, at, below(random, 8) ? 0 : odd_byte(random)), set_byte(file, at + 1, (uint8_t)(1 + below(random, 80)));
                else
                    set_byte(file, kind->at + 9 + below(random, 10), odd_byte(random));
            }
            break;
        case 7: { /* restart markers at other places, or at none */
            const uint8_t restart[] = {0xFF, 0xDD, 0, 4, below(random, 8) ? 0 : odd_byte(random), (uint8_t)below(random, 9)};
            splice(file, one->at, 0, restart, sizeof restart);
            break;
        }
        case 8: /* the header of one with the scan of another */
            their_scan = theirs[find_segments(other->data, other->size, theirs, 64) - 1].at;
            if (scan < file->size && their_scan < other->size) splice(file, scan, file->size, other->data + their_scan, other->size - their_scan);
            break;
        default: /* wrong bits of the scan alone */
            for (uint32_t i = 1 + below(random, 8); scan < file->size && i; i--)
                file->data[scan + below(random, (uint32_t)(file->size - scan))] ^= (uint8_t)(1 << below(random, 8));
    }
}

static void mutate(File *file, Random *random) {
    static const uint8_t markers[] = {0xC0, 0xC4, 0xD0, 0xD1, 0xD7, 0xD9, 0xDA, 0xDD, 0x00, 0xFF};
    for (uint32_t left = below(random, 5); left && file->size > 4; left--) {
        size_t at = below(random, (uint32_t)file->size);
        uint8_t some[40] = {0xFF, markers[below(random, sizeof markers)]};
        int how = (int)below(random, 16);
        if (how < 10)
            mutate_segments(file, how, random);
        else if (how == 10)
            file->data[at] ^= (uint8_t)(1 << below(random, 8));
        else if (how == 11)
            file->data[at] = odd_byte(random);
        else if (how == 12)
            file->size = at;
        else if (how == 13) /* a marker, in place of two bytes or between them */
            splice(file, at, 2 * below(random, 2), some, 2);
        else if (how == 14) { /* a run of one byte */
            memset(some, below(random, 2) ? 0xFF : odd_byte(random), sizeof some);
            splice(file, at, below(random, sizeof some), some, below(random, sizeof some));
        } else /* a piece of its own, elsewhere */
            splice(file, below(random, (uint32_t)file->size), 0, memcpy(some, file->data, file->size < 40 ? file->size : 40), below(random, 40));
    }
    static const uint8_t end[] = {0xFF, 0xD9};
    if (below(random, 4)) splice(file, file->size, 0, end, sizeof end); /* without one, our decoder looks no further */
}

/* What is compared. */

typedef struct {
    int status, components;
    Plane planes[3];
    Buffer pixels[3];
} Decoded;

static unsigned checksum; /* so that reads are not left out */

/* Decode, check what is promised of planes, and keep them. */
static void decode(Jpeg *jpeg, int eighths, const int32_t *box, const Marks *marks, Decoded *to) {
    const JpegHeader *header = baseline_header(jpeg);
    to->components = header->components;
    to->status = baseline_decode(jpeg, eighths, box, marks, to->planes);
    require(to->status == 0 || to->status == NOT_FOR_US || to->status == NO_MEMORY, "a status that baseline_decode does not have");
    for (int c = 0; c < to->components && to->status == 0; c++) {
        Plane *plane = to->planes + c;
        require(plane->top >= 0 && plane->left >= 0 && plane->height > 0 && plane->width > 0, "an empty plane");
        require(plane->top + plane->height <= plane->full_height && plane->left + plane->width <= plane->full_width, "a plane outside of its component");
        for (int axis = 0; axis < 2; axis++) {
            int first = axis ? plane->left : plane->top, full = axis ? plane->full_width : plane->full_height;
            int end = first + (axis ? plane->width : plane->height), fancy = axis ? plane->fancy_x : plane->fancy_y;
            double scale = axis ? plane->scale_x : plane->scale_y, low = box[axis] * scale, high = box[2 + axis] * scale;
            int needed = (int)high + ((int)high < high) + fancy;
            require(first <= ((int)low > fancy ? (int)low - fancy : 0), "a plane that begins after its box");
            require(end >= (needed < full ? needed : full), "a plane that ends before its box");
        }
        require(reserve(to->pixels + c, (size_t)plane->height * plane->width), "no memory");
        for (int y = 0; y < plane->height; y++) {
            const uint8_t *line = plane->pixels + y * plane->stride;
            memcpy((uint8_t *)to->pixels[c].data + (size_t)y * plane->width, line, plane->width);
            for (int x = 0; x < plane->width; x++) checksum += line[x] > 127; /* a branch on each: MemorySanitizer looks at it */
            volatile uint8_t past = line[plane->width + 31];
            (void)past;
        }
    }
}

/* Whether the part that both have is the same. */
static int same_where_both(const Decoded *a, const Decoded *b) {
    for (int c = 0; c < a->components; c++) {
        const Plane *one = a->planes + c, *two = b->planes + c;
        int top = one->top > two->top ? one->top : two->top, left = one->left > two->left ? one->left : two->left;
        int bottom = one->top + one->height < two->top + two->height ? one->top + one->height : two->top + two->height;
        int right = one->left + one->width < two->left + two->width ? one->left + one->width : two->left + two->width;
        if (one->full_height != two->full_height || one->full_width != two->full_width) return 0;
        for (int y = top; y < bottom && left < right; y++) {
            const uint8_t *mine = (uint8_t *)a->pixels[c].data + (ptrdiff_t)(y - one->top) * one->width + left - one->left;
            const uint8_t *other = (uint8_t *)b->pixels[c].data + (ptrdiff_t)(y - two->top) * two->width + left - two->left;
            if (memcmp(mine, other, right - left)) return 0;
        }
    }
    return 1;
}

#ifndef WITHOUT_LIBJPEG
typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf back;
} Errors;

static void jump_back(j_common_ptr jpeg) { longjmp(((Errors *)jpeg->err)->back, 1); }
static void say_nothing(j_common_ptr jpeg) { (void)jpeg; }

enum { REFERENCE_STRIDE = 65536 / 8 };
static uint8_t reference[3][1024 * 1024];

/* All of an image through libjpeg, without upsampling. Returns whether it has no warning, or -1 if it does not fit. */
static int decode_reference(const uint8_t *data, size_t size, int eighths, Decoded *to) {
    static struct jpeg_decompress_struct jpeg;
    static Errors errors;
    jpeg.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = jump_back;
    errors.base.output_message = say_nothing;
    if (setjmp(errors.back)) {
        jpeg_destroy_decompress(&jpeg);
        return 0;
    }
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, data, size);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.scale_num = eighths, jpeg.scale_denom = 8, jpeg.raw_data_out = TRUE;
    jpeg_start_decompress(&jpeg);
    size_t across[3], lines[3];
    to->components = jpeg.num_components;
    for (int c = 0; c < jpeg.num_components; c++) {
        jpeg_component_info *part = jpeg.comp_info + c;
        lines[c] = (size_t)part->v_samp_factor * part->DCT_scaled_size;
        across[c] = (size_t)part->width_in_blocks * part->DCT_scaled_size;
        if (across[c] * lines[c] * jpeg.total_iMCU_rows > sizeof reference[c]) {
            jpeg_destroy_decompress(&jpeg);
            return -1;
        }
        to->planes[c] = (Plane){.height = part->downsampled_height, .width = part->downsampled_width};
        to->planes[c].full_height = part->downsampled_height, to->planes[c].full_width = part->downsampled_width;
    }
    for (JDIMENSION row = 0; row < jpeg.total_iMCU_rows; row++) {
        JSAMPROW rows[3][32];
        JSAMPARRAY arrays[3] = {rows[0], rows[1], rows[2]};
        for (int c = 0; c < jpeg.num_components; c++)
            for (size_t y = 0; y < lines[c]; y++) rows[c][y] = reference[c] + (row * lines[c] + y) * across[c];
        jpeg_read_raw_data(&jpeg, arrays, jpeg.max_v_samp_factor * jpeg.min_DCT_scaled_size);
    }
    for (int c = 0; c < jpeg.num_components; c++) {
        const Plane *plane = to->planes + c;
        require(reserve(to->pixels + c, (size_t)plane->height * plane->width), "no memory");
        for (int y = 0; y < plane->height; y++)
            memcpy((uint8_t *)to->pixels[c].data + (size_t)y * plane->width, reference[c] + y * across[c], plane->width);
    }
    long warnings = errors.base.num_warnings;
    jpeg_destroy_decompress(&jpeg);
    return warnings == 0;
}

/* Whether the functions of libjpeg itself agree on an image: beyond eight times the range of samples, they do not. */
static int libjpeg_agrees(const uint8_t *data, size_t size) {
    static struct jpeg_decompress_struct jpeg;
    static Errors errors;
    jpeg.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = jump_back;
    errors.base.output_message = say_nothing;
    if (setjmp(errors.back)) { /* damage past the scan */
        jpeg_destroy_decompress(&jpeg);
        return 0;
    }
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, data, size);
    jpeg_read_header(&jpeg, TRUE);
    jvirt_barray_ptr *arrays = jpeg_read_coefficients(&jpeg);
    int all = 1;
    for (int c = 0; c < jpeg.num_components; c++) {
        const jpeg_component_info *part = jpeg.comp_info + c;
        for (JDIMENSION y = 0; y < part->height_in_blocks; y++) {
            JBLOCKARRAY blocks = jpeg.mem->access_virt_barray((j_common_ptr)&jpeg, arrays[c], y, 1, FALSE);
            for (JDIMENSION x = 0; x < part->width_in_blocks; x++)
                for (int i = 0; i < DCTSIZE2; i++) all = all && abs(blocks[0][x][i] * part->quant_table->quantval[i]) < 8192;
        }
    }
    jpeg_destroy_decompress(&jpeg);
    return all;
}
#endif

/* One run. */

static Jpeg *kept; /* has seen other images */
static Resampler resampler;
static Buffer lines;
static Decoded first, second;
static long runs, decoded_runs, compared_runs;

static void draw_box(int height, int width, int32_t *box, Random *random) {
    int large = (int64_t)height * width > MAX_PIXELS; /* a small box of it: nothing of the size that a header made up is allocated */
    for (int axis = 0; axis < 2; axis++) {
        int size = axis ? width : height, low = (int)below(random, size), most = size - low;
        if (large && most > 64) most = 64;
        box[axis] = low;
        box[2 + axis] = low + 1 + (int)below(random, most);
    }
    if (!large && below(random, 3) == 0) box[0] = box[1] = 0, box[2] = height, box[3] = width;
}

/* Marks that are right, as they were found; `NULL` where there are none. In memory of their own, with guarded ends. */
static Mark *find_marks(const JpegHeader *header, Random *random, size_t *count) {
    size_t mcus = (size_t)header->mcus_across * header->mcus_down;
    *count = 0;
    if (mcus > MAX_PIXELS / 64) return NULL;
    Mark *room = malloc(mcus * sizeof *room);
    int found = baseline_find_marks(kept, 1 + below(random, 2 * header->mcus_across), room);
    require(found >= -NO_MEMORY && found <= (int)mcus, "a number of marks that no image has");
    Mark *marks = found > 0 ? malloc(found * sizeof *marks) : NULL;
    if (marks) memcpy(marks, room, found * sizeof *marks);
    free(room);
    *count = found > 0 ? found : 0;
    return marks;
}

/* Marks that somebody made up. */
static Mark *make_up_marks(Mark *right, size_t *count, size_t size, Random *random) {
    if (!right || below(random, 4) == 0) {
        free(right);
        *count = 1 + below(random, 6);
        right = malloc(*count * sizeof *right);
        for (size_t i = 0; i < *count; i++)
            right[i] = (Mark){(int32_t)(i + below(random, 9)), (int32_t)below(random, (uint32_t)(8 * size + 9)), {(int32_t)below(random, 999), 0, 0}};
    }
    int32_t *numbers = (int32_t *)right;
    static const int32_t odd[] = {-1, 0, 1, 7, 8, INT32_MAX, INT32_MIN, 0x10000, INT32_MAX - 7};
    for (uint32_t left = below(random, 4); left; left--) {
        size_t at = below(random, (uint32_t)(*count * sizeof *right / sizeof *numbers));
        numbers[at] = below(random, 2) ? odd[below(random, sizeof odd / sizeof *odd)] : (int32_t)((uint32_t)numbers[at] + below(random, 64) - 32);
    }
    if (below(random, 8) == 0) *count = 0;
    return right;
}

#if HAS_SEEK
/* Marks through an entry of a seek table and back, and then an entry, and a table, that somebody made up. */
static void with_entry(const JpegHeader *header, int eighths, const int32_t *box, Random *random) {
    size_t mcus = (size_t)header->mcus_across * header->mcus_down, limit = 4 + below(random, 400), at = 0;
    Mark *all = malloc(mcus * sizeof *all), *back;
    int found = baseline_find_marks(kept, SEEK_NEAR, all);
    uint8_t *room = malloc(limit);
    size_t size = found > 0 ? seek_pack(all, (size_t)found, limit, room) : 0, count;
    require(size <= limit, "an entry that is larger than its limit");
    uint8_t *entry = malloc(size + 8); /* and up to eight bytes that are made up */
    memcpy(entry, room, size);
    count = seek_count(entry, size);
    back = malloc((count + 1) * sizeof *back);
    require(seek_unpack(entry, size, back, count) == count && (size == 0) == (count == 0), "an entry of our own that is not whole");
    for (size_t i = 0; i < count; at++) {
        require(at < (size_t)found, "a mark that was not packed");
        if (all[at].mcu == back[i].mcu) require(!memcmp(all + at, back + i++, sizeof *back), "another mark than was packed");
    }
    if (count) {
        decode(kept, eighths, box, &(Marks){back, count}, &second);
        require(second.status == first.status && (first.status || same_where_both(&first, &second)), "other pixels with an entry's marks");
    }
    size_t more = below(random, 9);
    for (size_t i = size; i < size + more; i++) entry[i] = (uint8_t)below(random, 256);
    for (uint32_t left = below(random, 4); left && size + more; left--) entry[below(random, (uint32_t)(size + more))] = odd_byte(random);
    uint8_t *exact = malloc(size + more + 1);
    memcpy(exact + 1, entry, size + more); /* not aligned, and guarded after its end */
    free(back);
    count = seek_count(exact + 1, size + more);
    back = malloc((count + 1) * sizeof *back);
    size_t unpacked = seek_unpack(exact + 1, size + more, back, count);
    require(unpacked <= count, "more marks than were counted");
    decode(kept, eighths, box, &(Marks){back, unpacked}, &second);
    free(all), free(room), free(entry), free(back), free(exact);
}

static void with_table(Random *random) {
    static const uint8_t head[] = {'F', 'F', 'S', 'E', 'E', 'K', '1', '\n'};
    size_t size = below(random, 64), found;
    uint8_t *table = malloc(size + 1);
    const uint8_t *entry = NULL;
    for (size_t i = 0; i < size; i++) table[i] = i < sizeof head ? head[i] : below(random, 2) ? 0 : (uint8_t)below(random, 24);
    if ((found = seek_find(table, size, below(random, 12), &entry))) {
        require(entry >= table && entry + found <= table + size, "an entry outside of its table");
        checksum += (unsigned)seek_count(entry, found);
    }
    free(table);
}
#endif

static void with_marks(const JpegHeader *header, size_t size, int eighths, const int32_t *box, Random *random) {
    size_t count;
    Mark *marks = find_marks(header, random, &count);
    if (marks) {
        decode(kept, eighths, box, &(Marks){marks, count}, &second);
        require(second.status == first.status, "another answer with marks, which were found in a whole scan, than without");
        if (first.status == 0) require(same_where_both(&first, &second), "other pixels with marks than without");
    }
    marks = make_up_marks(marks, &count, size, random);
    decode(kept, eighths, box, &(Marks){marks, count}, &second);
    free(marks);
}

static int levels; /* of vector instructions that this processor has, beside none */

/* Planes to an output image of any size, the same with all vectors; `from` is what was decoded last. */
static void show(const Decoded *from, const int32_t *box, Random *random) {
    int height = 1 + (int)below(random, 40), width = 1 + (int)below(random, 70);
    size_t size = (size_t)height * width * CHANNELS;
    uint8_t *out = malloc(size);
    Target target = {out, (ptrdiff_t)width * CHANNELS, height, width};
    const double real[4] = {box[0], box[1], box[2], box[3]};
    int kernel = below(random, 4) ? TRIANGLE : CUBIC, flip = (int)below(random, 2);
    require(out && resample_planes(&resampler, from->planes, from->components, real, &target, flip, kernel) == 0, "no memory");
    for (size_t i = 0; i < size; i++) checksum += out[i] > 127;
    if (below(random, 4) == 0) {
        uint8_t *other = malloc(size);
        Target beside = {other, target.stride, height, width};
        int before = simd_level;
        simd_level = (int)below(random, (uint32_t)levels + 1);
        require(other && resample_planes(&resampler, from->planes, from->components, real, &beside, flip, kernel) == 0, "no memory");
        require(!memcmp(out, other, size), "other pixels with other vectors");
        simd_level = before;
        free(other);
    }
    free(out);
}

/* A whole image in RGB; `second` is what was decoded last. */
static void show_whole(const Decoded *from) {
    int height = from->planes->full_height, width = from->planes->full_width;
    size_t size = (size_t)height * width * CHANNELS;
    uint8_t *out = malloc(2 * size), *other = out + size;
    int before = simd_level, all[4] = {0, 0, height, width}, inner[4] = {height / 3, width / 4, (height + 1) / 2, (width + 1) / 2};
    require(out && planes_to_rgb(from->planes, from->components, all, out, (ptrdiff_t)width * CHANNELS, &lines), "no memory");
    for (size_t i = 0; i < size; i++) checksum += out[i] > 127;
    simd_level = before ? 0 : levels;
    require(planes_to_rgb(from->planes, from->components, all, other, (ptrdiff_t)width * CHANNELS, &lines), "no memory");
    require(!memcmp(out, other, size), "other RGB with other vectors");
    simd_level = before;
    ptrdiff_t stride = (ptrdiff_t)(inner[3] - inner[1]) * CHANNELS;
    require(planes_to_rgb(from->planes, from->components, inner, other, stride, &lines), "no memory");
    for (int y = inner[0]; y < inner[2]; y++)
        require(!memcmp(out + ((ptrdiff_t)y * width + inner[1]) * CHANNELS, other + (y - inner[0]) * stride, (size_t)stride), "other RGB of a part");
    free(out);
}

/* With bytes after it that nobody reads, and with other vectors. Bytes after a scan that was cut short are its own: that may be damage. */
static void like_a_large_file(const uint8_t *data, size_t size, int eighths, const int32_t *box, Random *random) {
    int before = simd_level;
    uint8_t *padded = calloc(PADDED, 1);
    require(padded && size <= PADDED, "no memory");
    memcpy(padded, data, size);
    size_t large = below(random, 2) ? PADDED : size < 8000 ? 8000 : size;
    padded[large - 2] = 0xFF, padded[large - 1] = 0xD9;
    simd_level = (int)below(random, (uint32_t)levels + 1);
    require(baseline_read_header(kept, padded, large) == 0, "a larger file has another header");
    decode(kept, eighths, box, NULL, &second);
    if (first.status == 0) {
        require(second.status == 0, "a larger file has another answer");
        require(same_where_both(&first, &second), "a larger file has other pixels");
    }
    size_t count;
    JpegHeader header = *baseline_header(kept);
    Mark *marks = second.status == 0 ? find_marks(&header, random, &count) : NULL;
    if (marks) {
        decode(kept, eighths, box, &(Marks){marks, count}, &first);
        require(first.status == 0 && same_where_both(&first, &second), "a larger file has other pixels with marks");
        free(marks);
    }
    simd_level = before;
    free(padded);
}

static void like_a_new_decoder(const uint8_t *data, size_t size, int eighths, const int32_t *box) {
    Jpeg *new = open_baseline();
    require(new != NULL, "no memory");
    require(baseline_read_header(new, data, size) == 0, "a new decoder refuses the header");
    require(!memcmp(baseline_header(new), baseline_header(kept), sizeof(JpegHeader)), "a new decoder reads another header");
    decode(new, eighths, box, NULL, &second);
    require(second.status == first.status, "a new decoder has another answer");
    if (first.status == 0) require(same_where_both(&first, &second), "a new decoder has other pixels");
    close_baseline(new);
}

static void like_the_whole(const JpegHeader *header, const uint8_t *data, size_t size, int eighths) {
    const int32_t whole[4] = {0, 0, header->height, header->width};
    (void)data, (void)size;
    decode(kept, eighths, whole, NULL, &second);
    if (second.status) return;
    require(first.status == 0, "a whole image without damage, and a damaged part of it");
    require(same_where_both(&first, &second), "other pixels in a part than in the whole image");
    show_whole(&second);
#ifndef WITHOUT_LIBJPEG
    static Decoded libjpeg;
    int good = decode_reference(data, size, eighths, &libjpeg);
    require(good != 0, "libjpeg finds damage where we find none");
    if (good < 0) return;
    require(libjpeg.components == second.components, "libjpeg has another number of components");
    int same = same_where_both(&second, &libjpeg);
    require(same || !libjpeg_agrees(data, size), "libjpeg has other pixels");
    compared_runs += same;
#endif
}

static void run(const uint8_t *data, size_t size, Random *random) {
    runs++;
    int status = baseline_read_header(kept, data, size);
    require(status == 0 || status == NOT_FOR_US || status == NO_MEMORY, "a status that baseline_read_header does not have");
    if (status) return;
    JpegHeader header = *baseline_header(kept);
    require(header.height > 0 && header.width > 0 && (header.components == 1 || header.components == 3), "a header that no image has");
    int eighths = 1 << below(random, 4);
    int32_t box[4];
    draw_box(header.height, header.width, box, random);
    decode(kept, eighths, box, NULL, &first);
    decoded_runs += first.status == 0;
    if (first.status == 0 && below(random, 2)) show(&first, box, random);
    uint32_t also = below(random, 16);
#if HAS_SEEK
    if (also == 0 && (int64_t)header.height * header.width <= MAX_PIXELS) {
        with_entry(&header, eighths, box, random), with_table(random);
        return;
    }
#endif
    if (also < 4)
        with_marks(&header, size, eighths, box, random);
    else if (also < 6)
        like_a_new_decoder(data, size, eighths, box);
    else if (also < 8 && (int64_t)header.height * header.width <= MAX_PIXELS)
        like_the_whole(&header, data, size, eighths);
    else if (also < 10)
        like_a_large_file(data, size, eighths, box, random);
}

/* Each input in memory of its own, with guarded ends. */
static void run_copy(const uint8_t *data, size_t size, Random *random) {
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    input = copy, input_size = size;
    run(copy, size, random);
    free(copy);
}

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Random random = {size};
    for (size_t i = size > 8 ? size - 8 : 0; i < size; i++) random.state = random.state * 257 + data[i];
    if (!kept) kept = open_baseline(), levels = find_simd_level();
    simd_level = (int)below(&random, (uint32_t)levels + 1);
    run_copy(data, size, &random);
    return 0;
}
#else
static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void run_batch(void) {
    static uint8_t room[ROOM];
    Random random = {seed * 0x2545F4914F6CDD1Du ^ batch << 20};
    kept = open_baseline();
    require(kept != NULL, "no memory");
    simd_level = (int)below(&random, (uint32_t)levels + 1);
    for (int i = 0; i < BATCH; i++) {
        const File *file = draw_file(&random);
        File changed = {room, file->size};
        memcpy(room, file->data, file->size);
        mutate(&changed, &random);
        run_copy(changed.data, changed.size, &random);
    }
    close_baseline(kept);
    alarm(HANGS_S);
}

void __sanitizer_set_death_callback(void (*)(void)) __attribute__((weak));

int main(int count, char **given) {
    if (count != 6) {
        fprintf(stderr, "usage: %s CORPUS SECONDS BATCHES SEED FIRST\n", given[0]);
        return 2;
    }
    double seconds = atof(given[2]), started = now_s();
    uint64_t batches = strtoull(given[3], NULL, 10), begin = strtoull(given[5], NULL, 10);
    seed = strtoull(given[4], NULL, 10);
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(say_batch);
    signal(SIGALRM, hangs);
    alarm(HANGS_S);
    read_corpus(given[1]);
    levels = find_simd_level();
    for (batch = begin; batches ? batch - begin < batches : now_s() - started < seconds; batch++) run_batch();
    double took = now_s() - started;
    printf("%ld runs in %.0f s, %.0f a second, %ld of them decoded, %ld the same as libjpeg: no report; seed %llu, batches %llu to %llu, checksum %u\n",
           runs, took, runs / took, decoded_runs, compared_runs, (unsigned long long)seed, (unsigned long long)begin, (unsigned long long)batch, checksum);
    require(decoded_runs > runs / 20, "hardly one was decoded: the mutations do not reach the decoder");
    return 0;
}
#endif
