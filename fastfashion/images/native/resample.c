/* Resizes a box of an image to RGB: a triangle or a cubic along two axes, in whole numbers.
 *
 *   planes or RGB ─► blend lines ─► turn to columns ─► blend columns ─► colour ─► turn to lines of RGB ─► target
 *
 * for a strip of 8, 16 or 32 lines of the output at a time, as many as a vector has 16-bit numbers: where a column is a vector, blending
 * columns is as simple as blending lines. Every product is rounded to nearest: 255 grey levels times 2^7 times a weight of 2^14, times
 * 2^-15, are levels times 64 after the first axis and times 32 after the second. All vectors give the same pixels.
 */
#include "resample.h"

#include <math.h>

/* With more than FEW_TAPS source pixels an axis is summed in 32 bits: the rounding of that many products would show. */
enum { LINE_BITS = 6, SHOWN_BITS = 5, FEW_TAPS = 12, MOST_LANES = 32, ALIGNMENT = CACHE_LINE };
enum { RGB, YCC, GRAY };

/* A plane, or RGB lines, and what they become for one strip. */
typedef struct {
    const uint8_t *pixels; /* of line `top`, at the first column that has influence */
    ptrdiff_t stride;
    int top, width; /* numbers of a line that have influence: pixels times channels */
    const Taps *rows, *columns;
    int in_line; /* of `lines`: a multiple of MOST_LANES, at least `width` */
    int16_t *lines, *turned;
    int32_t *weights; /* of one line */
    uint8_t *wide;    /* lines that are narrower than a vector */
} Source;

typedef struct {
    Source source[3];
    int count, kind, flip;
    int straight; /* the columns of the output are those of the source */
    const Target *target;
} Job;

#if defined(__x86_64__) && defined(__GNUC__)
#define LANES 32
#define NAME(x) x##_avx512
#define FOR_LEVEL FOR_AVX512
#define TIMES(a, b) ((Rows)_mm512_mulhrs_epi16((__m512i)(a), (__m512i)(b)))
#define LOWER(a, b) ((Rows)_mm512_min_epi16((__m512i)(a), (__m512i)(b)))
#define HIGHER(a, b) ((Rows)_mm512_max_epi16((__m512i)(a), (__m512i)(b)))
#define MADD(a, b) ((Halves_avx512)_mm512_madd_epi16((__m512i)(a), (__m512i)(b)))
#define PACK(c, d) ((Rows)_mm512_packs_epi32((__m512i)(c), (__m512i)(d)))
#define WIDEN(p) ((Rows)_mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(p))))
#define LOW16(a, b) ((Rows)_mm512_unpacklo_epi16((__m512i)(a), (__m512i)(b)))
#define LOW32(a, b) ((Rows)_mm512_unpacklo_epi32((__m512i)(a), (__m512i)(b)))
#define LOW64(a, b) ((Rows)_mm512_unpacklo_epi64((__m512i)(a), (__m512i)(b)))
#define HIGH16(a, b) ((Rows)_mm512_unpackhi_epi16((__m512i)(a), (__m512i)(b)))
#define HIGH32(a, b) ((Rows)_mm512_unpackhi_epi32((__m512i)(a), (__m512i)(b)))
#define HIGH64(a, b) ((Rows)_mm512_unpackhi_epi64((__m512i)(a), (__m512i)(b)))
#define GATHER(p, step) ((Rows)gather_avx512(p, 8 * (ptrdiff_t)(step)))
#define SCATTER(p, step, a) scatter_avx512(p, 8 * (ptrdiff_t)(step), (__m512i)(a))
FOR_AVX512 INLINE __m512i gather_avx512(const int16_t *p, ptrdiff_t step) {
    __m512i a = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    a = _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *)(p + step)), 1);
    a = _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *)(p + 2 * step)), 2);
    return _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *)(p + 3 * step)), 3);
}
FOR_AVX512 INLINE void scatter_avx512(uint8_t *p, ptrdiff_t step, __m512i a) {
    _mm_storeu_si128((__m128i *)p, _mm512_castsi512_si128(a));
    _mm_storeu_si128((__m128i *)(p + step), _mm512_extracti32x4_epi32(a, 1));
    _mm_storeu_si128((__m128i *)(p + 2 * step), _mm512_extracti32x4_epi32(a, 2));
    _mm_storeu_si128((__m128i *)(p + 3 * step), _mm512_extracti32x4_epi32(a, 3));
}
#include "strips.h"

#define LANES 16
#define NAME(x) x##_avx2
#define FOR_LEVEL FOR_AVX2
#define TIMES(a, b) ((Rows)_mm256_mulhrs_epi16((__m256i)(a), (__m256i)(b)))
#define LOWER(a, b) ((Rows)_mm256_min_epi16((__m256i)(a), (__m256i)(b)))
#define HIGHER(a, b) ((Rows)_mm256_max_epi16((__m256i)(a), (__m256i)(b)))
#define MADD(a, b) ((Halves_avx2)_mm256_madd_epi16((__m256i)(a), (__m256i)(b)))
#define PACK(c, d) ((Rows)_mm256_packs_epi32((__m256i)(c), (__m256i)(d)))
#define WIDEN(p) ((Rows)_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(p))))
#define LOW16(a, b) ((Rows)_mm256_unpacklo_epi16((__m256i)(a), (__m256i)(b)))
#define LOW32(a, b) ((Rows)_mm256_unpacklo_epi32((__m256i)(a), (__m256i)(b)))
#define LOW64(a, b) ((Rows)_mm256_unpacklo_epi64((__m256i)(a), (__m256i)(b)))
#define HIGH16(a, b) ((Rows)_mm256_unpackhi_epi16((__m256i)(a), (__m256i)(b)))
#define HIGH32(a, b) ((Rows)_mm256_unpackhi_epi32((__m256i)(a), (__m256i)(b)))
#define HIGH64(a, b) ((Rows)_mm256_unpackhi_epi64((__m256i)(a), (__m256i)(b)))
#define GATHER(p, step) ((Rows)gather_avx2(p, 8 * (ptrdiff_t)(step)))
#define SCATTER(p, step, a) scatter_avx2(p, 8 * (ptrdiff_t)(step), (__m256i)(a))
FOR_AVX2 INLINE __m256i gather_avx2(const int16_t *p, ptrdiff_t step) {
    __m256i a = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p));
    return _mm256_inserti128_si256(a, _mm_loadu_si128((const __m128i *)(p + step)), 1);
}
FOR_AVX2 INLINE void scatter_avx2(uint8_t *p, ptrdiff_t step, __m256i a) {
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(a));
    _mm_storeu_si128((__m128i *)(p + step), _mm256_extracti128_si256(a, 1));
}
#include "strips.h"
#endif

/* Vectors that every processor has (SSE2, NEON), or that the compiler makes of plain numbers. */
typedef int16_t Eight __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef int64_t TwoLongs __attribute__((vector_size(16)));

INLINE Eight times_plain(Eight a, Eight b) {
#if defined(__ARM_NEON)
    return (Eight)vqrdmulhq_s16((int16x8_t)a, (int16x8_t)b); /* saturates only -2^15 squared, which no weight is */
#elif defined(__x86_64__) && defined(__GNUC__)
    typedef uint16_t Unsigned __attribute__((vector_size(16)));
    Unsigned low = (Unsigned)_mm_mullo_epi16((__m128i)a, (__m128i)b);
    return ((Eight)_mm_mulhi_epi16((__m128i)a, (__m128i)b) << 1) + (Eight)(((low >> 14) + 1) >> 1);
#else
    Eight product;
    for (int i = 0; i < 8; i++) product[i] = (int16_t)((a[i] * b[i] + (1 << 14)) >> 15);
    return product;
#endif
}

INLINE FourInts madd_plain(Eight a, Eight b) {
#if defined(__x86_64__) && defined(__GNUC__)
    return (FourInts)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    FourInts sums;
    for (int i = 0; i < 4; i++) sums[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sums;
#endif
}

/* The lower 16 bits of each: no sum needs more. */
INLINE Eight pack_plain(FourInts a, FourInts b) { return __builtin_shufflevector((Eight)a, (Eight)b, 0, 2, 4, 6, 8, 10, 12, 14); }

INLINE Eight choose_plain(Eight yes, Eight a, Eight b) { return (yes & a) | (~yes & b); }

INLINE Eight widen_plain(const uint8_t *p) {
    typedef uint8_t Bytes __attribute__((vector_size(8)));
    Bytes bytes;
    memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, Eight);
}

INLINE Eight load_plain8(const int16_t *p) {
    Eight eight;
    memcpy(&eight, p, sizeof eight);
    return eight;
}

#define LANES 8
#define NAME(x) x##_plain
#define FOR_LEVEL
#define TIMES(a, b) times_plain(a, b)
#define LOWER(a, b) choose_plain((a) < (b), a, b)
#define HIGHER(a, b) choose_plain((a) > (b), a, b)
#define MADD(a, b) madd_plain(a, b)
#define PACK(c, d) pack_plain(c, d)
#define WIDEN(p) widen_plain(p)
#define LOW16(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH16(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define LOW32(a, b) ((Rows)__builtin_shufflevector((FourInts)(a), (FourInts)(b), 0, 4, 1, 5))
#define HIGH32(a, b) ((Rows)__builtin_shufflevector((FourInts)(a), (FourInts)(b), 2, 6, 3, 7))
#define LOW64(a, b) ((Rows)__builtin_shufflevector((TwoLongs)(a), (TwoLongs)(b), 0, 2))
#define HIGH64(a, b) ((Rows)__builtin_shufflevector((TwoLongs)(a), (TwoLongs)(b), 1, 3))
#define GATHER(p, step) load_plain8(p)
#define SCATTER(p, step, a) memcpy(p, &(a), 16)
#include "strips.h"

int simd_level = -1;

int find_simd_level(void) {
    int level = HAS_AVX512 ? SIMD_AVX512 : HAS_AVX2 ? SIMD_AVX2 : SIMD_PLAIN;
    return simd_level >= 0 && simd_level < level ? simd_level : level;
}

static void resize(const Job *job) {
    int height = job->target->height, whole = height % 32 > 16 ? height : height - height % 32;
    switch (find_simd_level()) {
#if defined(__x86_64__) && defined(__GNUC__)
        case SIMD_AVX512: /* half a strip of 32 lines or less is one of 16 */
            resize_avx512(job, 0, whole);
            resize_avx2(job, whole, height);
            return;
        case SIMD_AVX2: resize_avx2(job, 0, height); return;
#endif
        default: (void)whole, resize_plain(job, 0, height);
    }
}

/* Memory for `size` bytes, at a multiple of ALIGNMENT; NULL if there is none. */
static void *room(Buffer *buffer, size_t size) {
    size_t before = buffer->size;
    if (!reserve(buffer, size + ALIGNMENT)) return NULL;
    if (buffer->size != before) memset(buffer->data, 0, buffer->size); /* numbers past a line's last are turned too, and not shown */
    return (void *)(((uintptr_t)buffer->data + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
}

/* Buffers of a source whose taps are known. Returns 0 if there is no memory. */
static int find_room(Resampler *s, Source *source, int number, int channels) {
    source->width = (source->columns->last - source->columns->first) * channels;
    source->in_line = (source->width + MOST_LANES - 1) / MOST_LANES * MOST_LANES;
    size_t numbers = (size_t)MOST_LANES * source->in_line;
    source->lines = room(&s->lines[number], numbers * sizeof(int16_t));
    source->turned = room(&s->turned[number], numbers * sizeof(int16_t));
    source->weights = room(&s->weights[number], (size_t)source->rows->count * sizeof(int32_t));
    source->wide = room(&s->wide[number], (size_t)source->rows->count * MOST_LANES);
    return source->lines && source->turned && source->weights && source->wide;
}

static void copy_lines(const Job *job) {
    const Source *source = job->source;
    const uint8_t *from = source->pixels + (source->rows->first - source->top) * source->stride;
    for (int y = 0; y < job->target->height; y++) memcpy(job->target->out + y * job->target->stride, from + y * source->stride, source->width);
}

int resample_rgb(Resampler *s, const uint8_t *pixels, ptrdiff_t stride, const double box[4], const Target *target, int flip, int kernel) {
    Job job = {.count = 1, .kind = RGB, .flip = flip, .target = target};
    Source *source = job.source;
    Axis y = {box[0], box[2], target->height, 0, (int)ceil(box[2]), 0, kernel, 0};
    Axis x = {box[1], box[3], target->width, 0, (int)ceil(box[3]), 0, kernel, 0};
    source->rows = find_taps(&s->taps, &y), source->columns = find_taps(&s->taps, &x);
    if (!source->rows || !source->columns || !find_room(s, source, 0, CHANNELS)) return NO_MEMORY;
    source->pixels = pixels + (ptrdiff_t)source->columns->first * CHANNELS, source->stride = stride;
    job.straight = source->columns->straight && !flip;
    if (job.straight && source->rows->straight)
        copy_lines(&job);
    else
        resize(&job);
    return 0;
}

/* The axis of a plane: [from, to) of the whole image, in pixels of the plane, or of luma's grid if fancy. */
static Axis plane_axis(double from, double to, int size, int low, int count, int full, double scale, int fancy, int kernel) {
    if (fancy) scale *= 2;
    Axis axis = {from * scale, to * scale, size, low, low + count, fancy ? full : 0, kernel, fancy};
    return axis;
}

int resample_planes(Resampler *s, const Plane *planes, int count, const double box[4], const Target *target, int flip, int kernel) {
    Job job = {.count = count, .kind = count == 1 ? GRAY : YCC, .flip = flip, .target = target};
    for (int i = 0; i < count; i++) {
        const Plane *plane = planes + i;
        int by_y = plane->fancy_y ? FANCY : 2 * plane->scale_y == planes->scale_y ? REPLICATED : OWN_GRID;
        int by_x = plane->fancy_x ? FANCY : 2 * plane->scale_x == planes->scale_x ? REPLICATED : OWN_GRID;
        Source *source = job.source + i;
        Axis y = plane_axis(box[0], box[2], target->height, plane->top, plane->height, plane->full_height, plane->scale_y, by_y, kernel);
        Axis x = plane_axis(box[1], box[3], target->width, plane->left, plane->width, plane->full_width, plane->scale_x, by_x, kernel);
        source->rows = find_taps(&s->taps, &y), source->columns = find_taps(&s->taps, &x);
        if (!source->rows || !source->columns || !find_room(s, source, i, 1)) return NO_MEMORY;
        source->pixels = plane->pixels + (source->columns->first - plane->left), source->stride = plane->stride, source->top = plane->top;
    }
    resize(&job);
    return 0;
}

size_t resampler_bytes(const Resampler *s) {
    size_t bytes = taps_bytes(&s->taps);
    for (int i = 0; i < 3; i++) bytes += s->lines[i].size + s->turned[i].size + s->weights[i].size + s->wide[i].size;
    return bytes;
}

void free_resampler(Resampler *s) {
    free_taps(&s->taps);
    for (int i = 0; i < 3; i++) free(s->lines[i].data), free(s->turned[i].data), free(s->weights[i].data), free(s->wide[i].data);
}
