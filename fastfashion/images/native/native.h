/* What the files of the native decoder share: buffers, targets, and vector instructions. */
#ifndef FASTFASHION_NATIVE_H
#define FASTFASHION_NATIVE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Pixels are computed with integers only, so that they are the same on every machine, with AVX2 and without. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAS_X86 1
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
#define HAS_AVX512 (HAS_AVX2 && __builtin_cpu_supports("avx512bw"))
#define FOR_AVX2 __attribute__((target("avx2,bmi,bmi2")))
#define FOR_AVX512 __attribute__((target("avx512bw")))
#else
#define HAS_X86 0
#define HAS_AVX2 0
#define HAS_AVX512 0
#define FOR_AVX2
#define FOR_AVX512
#endif
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#define INLINE static inline __attribute__((always_inline))

/* The widest vectors that are used: those that the processor has, or fewer, for tests. */
enum { SIMD_PLAIN, SIMD_AVX2, SIMD_AVX512 };
extern int simd_level;     /* the most that may be used; below 0: any */
int find_simd_level(void); /* resample.c */

enum { CHANNELS = 3, CACHE_LINE = 64, NOT_FOR_US = 1, NO_MEMORY = 2 };

/* A buffer that only grows. `reserve` returns 0 if there is no memory. */
typedef struct {
    void *data;
    size_t size;
} Buffer;

INLINE int reserve(Buffer *buffer, size_t size) {
    if (buffer->size < size) {
        free(buffer->data);
        buffer->data = malloc(size);
        buffer->size = buffer->data ? size : 0;
    }
    return buffer->data != NULL;
}

/* Where an image is shown: all of `out`, or the part of it that a place (y0, x0, y1, x1) names; lines are `stride` bytes apart. */
typedef struct {
    uint8_t *out;
    ptrdiff_t stride;
    int height, width;
} Target;

/* A decoded component of an image, or the part of it that a box needs. */
typedef struct {
    const uint8_t *pixels; /* of pixel (top, left) */
    ptrdiff_t stride;
    int top, left, height, width; /* the decoded part, in pixels of the component at this scale */
    int full_height, full_width;  /* of the whole component at this scale */
    double scale_y, scale_x;      /* component pixels per pixel of the whole, unscaled image: luma at 1/4: 0.25 */
    int fancy_y, fancy_x;         /* 1: half of luma's resolution on this axis, upsampled as libjpeg does (3/4, 1/4; ends replicate) */
} Plane;

#endif
