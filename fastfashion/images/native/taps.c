/* Which source pixels an output pixel is made of, and their weights.
 *
 * Positions are whole numbers, in units of 2^-32 pixels. Kernels are float: each product, sum and quotient is rounded as IEEE 754 says, none
 * is contracted, and each sum has one order, so that every machine finds the same weights. images/resampling.py does the same with NumPy.
 */
#include "taps.h"

#include <math.h>

enum { PLACE_BITS = 32, MOST_DISTANCE_BITS = 27 };
#define PLACE_ONE ((int64_t)1 << PLACE_BITS)
#define PLACE_HALF (PLACE_ONE / 2)

static int clip(int i, int low, int high) { return i < low ? low : i > high ? high : i; }

/* Where the output pixels of an axis are, and how far they see, in source pixels (of luma's grid if fancy). */
typedef struct {
    int64_t from, step, reach;
    int first, last; /* the pixels that the box touches */
    int shift;       /* from positions to distances of 32 bits: 16, or more where the kernel is as wide as that */
    float narrowing; /* from distances to the kernel's argument */
} Grid;

static Grid find_grid(const Axis *axis) {
    Grid grid;
    /* A power of two changes no digit: whole boxes stay whole. Boxes end below 2^28, so that no sum below leaves 64 bits. */
    grid.from = (int64_t)(axis->from * (double)PLACE_ONE);
    grid.step = (int64_t)((axis->to - axis->from) * (double)PLACE_ONE / axis->size);
    int64_t support = grid.step > PLACE_ONE ? grid.step : PLACE_ONE;
    grid.reach = axis->kernel == CUBIC ? 2 * support : support;
    grid.first = (int)floor(axis->from), grid.last = (int)ceil(axis->to);
    if (!axis->fancy) { /* what does not exist has no influence */
        grid.first = clip(grid.first, axis->low, axis->high - 1);
        grid.last = clip(grid.last, grid.first + 1, axis->high);
    }
    grid.shift = PLACE_BITS / 2;
    while (grid.reach >> grid.shift >= 1 << MOST_DISTANCE_BITS) grid.shift++;
    grid.narrowing = (float)((double)((int64_t)1 << grid.shift) / (double)support);
    return grid;
}

/* The first source pixel of each output pixel; returns the most that one has. */
static int find_starts(const Axis *axis, const Grid *grid, int32_t *start) {
    int most = 1, low = axis->low, high = (axis->high < axis->full ? axis->high : axis->full) - 1;
    int64_t centre = grid->from + grid->step / 2;
    for (int i = 0; i < axis->size; i++, centre += grid->step) {
        /* Those nearer than `reach`: strictly, so that an image of the same size has one each. */
        int first = (int)((centre - grid->reach - PLACE_HALF) >> PLACE_BITS) + 1;
        int last = (int)((centre + grid->reach + PLACE_HALF - 1) >> PLACE_BITS);
        first = clip(first, grid->first, grid->last - 1);
        last = clip(last, first + 1, grid->last);
        if (axis->fancy) { /* pixel 2 j is made of j and j - 1, pixel 2 j + 1 of j and j + 1 */
            first = clip((first - 1) >> 1, low, high);
            last = clip(last >> 1, low, high) + 1;
        }
        if (last - first > most) most = last - first;
        start[i] = first;
    }
    return most;
}

/* The kernel at distances from the output pixels' centres: Keys' cubic with a = -1/2, or a triangle. 0 beyond its reach. */
static void find_values(const Axis *axis, const Grid *grid, const int32_t *distance, float *values) {
    int size = axis->size;
    float narrowing = grid->narrowing;
    if (axis->kernel == TRIANGLE) {
        for (int i = 0; i < size; i++) {
            float value = 1 - fabsf((float)distance[i]) * narrowing;
            values[i] = value > 0 ? value : 0;
        }
        return;
    }
    int one = (int)(grid->reach >> grid->shift) / 2;
    for (int i = 0; i < size; i++) { /* 1 - 5/2 t^2 + 3/2 t^3 up to 1, -1/2 u (1 - u)^2 with u = t - 1 from there to 2: both are 0 at 1 */
        int far = abs(distance[i]), inner = far < one ? far : one, outer = far - inner < one ? far - inner : one;
        float t = (float)inner * narrowing, u = (float)outer * narrowing;
        values[i] = ((1.5f * t - 2.5f) * (t * t) + 1) - 0.5f * u * ((1 - u) * (1 - u));
    }
}

/* Distances of source pixels start[i] (or, if fancy, of the pixel of luma's grid before the first that start[i] is a part of). */
static void find_distances(const Axis *axis, const Grid *grid, const int32_t *start, int32_t *distance) {
    int64_t centre = grid->from + grid->step / 2, most = (int64_t)1 << (MOST_DISTANCE_BITS + 2) << grid->shift;
    for (int i = 0; i < axis->size; i++, centre += grid->step) {
        int64_t pixel = axis->fancy ? 2 * (int64_t)start[i] - 1 : start[i], far = pixel * PLACE_ONE + PLACE_HALF - centre;
        /* Only where a box is far from all pixels that exist is this more than four times `reach`. */
        far = far < -most ? -most : far > most ? most : far;
        distance[i] = (int32_t)(far >> grid->shift);
    }
}

/* Values of `count` source pixels in a row, a line each; distances are those of the first, and end past the last. */
static void find_lines(const Axis *axis, const Grid *grid, int32_t *distance, float *values, int count) {
    for (int k = 0; k < count; k++) {
        find_values(axis, grid, distance, values + (size_t)k * axis->size);
        for (int i = 0; i < axis->size; i++) distance[i] += (int32_t)(PLACE_ONE >> grid->shift);
    }
}

/* The pixels of luma's grid that an output pixel near an end of the box does not see, or that are missing there: see find_folded. */
static void mend_end(const Axis *axis, const Grid *grid, int i, int start, float *seen, int count) {
    int size = axis->size, first = 2 * start - 1, last = 2 * axis->full - 1;
    for (int m = 0; m < count; m++)
        if (first + m < grid->first || first + m >= grid->last) seen[(size_t)m * size + i] = 0;
    for (int m = 0; m < count; m++) {
        if (first + m == -1) seen[(size_t)m * size + i] = seen[(size_t)(m + 1) * size + i];
        if (first + m == last + 1) seen[(size_t)m * size + i] = seen[(size_t)(m - 1) * size + i];
    }
}

/* Values of each source pixel of a component of half the resolution: pixel j is 3/4 of pixels 2 j and 2 j + 1 of luma's grid, and 1/4 of
 * their neighbours 2 j - 1 and 2 j + 2; at the ends, of themselves. Each has four times the value. Replicated, it is both 2 j
 * and 2 j + 1, and nothing else. */
static void find_folded(const Axis *axis, const Grid *grid, const int32_t *start, int32_t *distance, float *values, float *seen, int count) {
    int size = axis->size, inner = 2 * count + 2;
    find_lines(axis, grid, distance, seen, inner);
    /* Starts ascend: only the first and last few output pixels see beyond the box. first + m == -1 has m = 0, and 2 full has m >= 3. */
    for (int i = 0; i < size && 2 * start[i] - 1 < grid->first; i++) mend_end(axis, grid, i, start[i], seen, inner);
    for (int i = size - 1; i >= 0 && 2 * start[i] - 1 + inner > grid->last; i--) mend_end(axis, grid, i, start[i], seen, inner);
    for (int k = 0; k < count; k++) {
        const float *at = seen + (size_t)2 * k * size;
        float *value = values + (size_t)k * size;
        if (axis->fancy == REPLICATED)
            for (int i = 0; i < size; i++) value[i] = at[i + size] + at[i + 2 * size];
        else
            for (int i = 0; i < size; i++) value[i] = (at[i] + at[i + 3 * size]) + 3 * (at[i + size] + at[i + 2 * size]);
    }
}

/* From values to weights that sum to ONE; what rounding leaves goes to the first of the heaviest. */
static void weigh(const float *values, int size, int count, float *sums, float *heaviest, int32_t *left, int32_t *weights) {
    for (int i = 0; i < size; i++) sums[i] = heaviest[i] = values[i], left[i] = ONE;
    for (int k = 1; k < count; k++) {
        const float *value = values + (size_t)k * size;
        for (int i = 0; i < size; i++) {
            sums[i] += value[i];
            heaviest[i] = heaviest[i] > value[i] ? heaviest[i] : value[i];
        }
    }
    /* A sum is at least 1/2, but where a box is far from all pixels that exist: then it may be 0, and no weight leaves 32 bits. */
    for (int i = 0; i < size; i++) sums[i] = (float)ONE / (sums[i] > 1.0f / 256 ? sums[i] : 1.0f / 256);
    for (int k = 0; k < count; k++) {
        const float *value = values + (size_t)k * size;
        int32_t *weight = weights + (size_t)k * size;
        for (int i = 0; i < size; i++) {
            weight[i] = (int32_t)(value[i] * sums[i] + ((float)ONE + 0.5f)) - ONE; /* rounded down, also below 0 */
            left[i] -= weight[i];
        }
    }
    for (int k = 0; k < count; k++) {
        const float *value = values + (size_t)k * size;
        int32_t *weight = weights + (size_t)k * size;
        for (int i = 0; i < size; i++) {
            int32_t more = value[i] == heaviest[i] ? left[i] : 0;
            left[i] -= more;
            uint32_t whole = (uint32_t)(weight[i] + more);
            weight[i] = (int32_t)((whole & 0xFFFF) | whole << 16);
        }
    }
}

static int is_straight(const Taps *taps) {
    int straight = taps->count == 1;
    for (int i = 0; i < taps->axis.size && straight; i++) straight = taps->start[i] == taps->first + i;
    return straight;
}

static int fill(Taps *taps, Buffer *values) {
    const Axis *axis = &taps->axis;
    Grid grid = find_grid(axis);
    size_t size = (size_t)axis->size;
    if (!reserve(&taps->starts, size * sizeof(int32_t))) return 0;
    int32_t *start = taps->start = taps->starts.data;
    int count = taps->count = find_starts(axis, &grid, start);
    /* Starts that are so far to the end that not all taps exist move: `count` fits, since one output pixel has as many between them. */
    int last = axis->fancy ? (axis->high < axis->full ? axis->high : axis->full) : grid.last;
    for (size_t i = 0; i < size; i++) start[i] = start[i] < last - count ? start[i] : last - count;
    taps->first = start[0], taps->last = start[size - 1] + count; /* they ascend */
    taps->straight = is_straight(taps);
    /* Four lines of `size`, then `count` of values, then 2 count + 2 of what they are folded from. */
    size_t lines = 4 + (size_t)count + (axis->fancy ? 2 * (size_t)count + 2 : 0);
    if (!reserve(&taps->memory, size * (size_t)count * sizeof(int32_t)) || !reserve(values, lines * size * sizeof(float))) return 0;
    taps->weights = taps->memory.data;
    float *sums = values->data, *heaviest = sums + size, *first = sums + 4 * size;
    int32_t *left = (int32_t *)(sums + 2 * size), *distance = left + size;
    find_distances(axis, &grid, start, distance);
    if (axis->fancy)
        find_folded(axis, &grid, start, distance, first, first + (size_t)count * size, count);
    else
        find_lines(axis, &grid, distance, first, count);
    weigh(first, axis->size, count, sums, heaviest, left, taps->weights);
    return 1;
}

const Taps *find_taps(TapsCache *cache, const Axis *axis) {
    Taps *oldest = cache->taps;
    for (Taps *taps = cache->taps; taps < cache->taps + KEPT_TAPS; taps++) {
        if (taps->used && !memcmp(&taps->axis, axis, sizeof *axis)) {
            taps->used = ++cache->used;
            return taps;
        }
        if (taps->used < oldest->used) oldest = taps;
    }
    oldest->axis = *axis;
    oldest->used = 0; /* not there, if memory ends */
    if (!fill(oldest, &cache->values)) return NULL;
    oldest->used = ++cache->used;
    return oldest;
}

void free_taps(TapsCache *cache) {
    for (int i = 0; i < KEPT_TAPS; i++) free(cache->taps[i].starts.data), free(cache->taps[i].memory.data);
    free(cache->values.data);
}

size_t taps_bytes(const TapsCache *cache) {
    size_t bytes = cache->values.size;
    for (int i = 0; i < KEPT_TAPS; i++) bytes += cache->taps[i].starts.size + cache->taps[i].memory.size;
    return bytes;
}
