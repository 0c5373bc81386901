/* The resampler's loops, for vectors of LANES 16-bit numbers: resample.c includes this file once for each kind of vector.
 *
 * It defines LANES (8, 16 or 32), NAME(x), FOR_LEVEL (the functions' target), and, for vectors of 16 bits:
 *   TIMES(a, b)            (a * b + 2^14) >> 15
 *   LOWER(a, b), HIGHER(a, b)
 *   MADD(a, b), PACK(c, d) sums of products of neighbours, in 32 bits; two of such sums back to 16 bits, in the order of LOW16 and HIGH16
 *   WIDEN(p)               LANES bytes from p on
 *   LOW16(a, b), HIGH16    interleave the lower (higher) halves of each 128 bits, by 16 bits; LOW32, HIGH32, LOW64, HIGH64: by 32 and 64
 *   GATHER(p, step)        128 bits each from p, p + 8 * step, ... int16_t
 *   SCATTER(p, step, a)    128 bits each of `a` to p, p + 8 * step, ... bytes
 */
#define Rows NAME(Rows)
typedef int16_t Rows __attribute__((vector_size(2 * LANES)));
typedef uint8_t NAME(Bytes) __attribute__((vector_size(LANES)));
typedef int32_t NAME(Halves) __attribute__((vector_size(2 * LANES)));

FOR_LEVEL INLINE Rows NAME(load)(const int16_t *from) {
    Rows rows;
    memcpy(&rows, from, sizeof rows);
    return rows;
}

FOR_LEVEL INLINE void NAME(store)(int16_t *to, Rows rows) { memcpy(to, &rows, sizeof rows); }

FOR_LEVEL INLINE Rows NAME(all)(int value) { return (Rows){0} + (int16_t)value; }

/* A weight of taps.h, which is stored twice. */
FOR_LEVEL INLINE Rows NAME(weight)(const int32_t *weight) { return (Rows)((NAME(Halves)){0} + *weight); }

/* One line of the output's height from `count` lines of the source, in grey levels times 64. `width` is at least LANES: the last vector
 * ends with the line, and overlaps the one before. */
FOR_LEVEL INLINE void NAME(blend)(int16_t *line, const uint8_t *source, ptrdiff_t stride, int width, const int32_t *weights, int count) {
    Rows weight[FEW_TAPS];
    for (int k = 0; k < count; k++) weight[k] = NAME(weight)(weights + k);
    for (int x = 0; x < width; x += LANES) {
        int at = x + LANES <= width ? x : width - LANES;
        Rows sum = TIMES(WIDEN(source + at) << 7, weight[0]);
        for (int k = 1; k < count; k++) sum += TIMES(WIDEN(source + at + k * stride) << 7, weight[k]);
        NAME(store)(line + at, sum);
    }
}

FOR_LEVEL INLINE void NAME(copy)(int16_t *line, const uint8_t *source, int width) {
    for (int x = 0; x < width; x += LANES) {
        int at = x + LANES <= width ? x : width - LANES;
        NAME(store)(line + at, WIDEN(source + at) << LINE_BITS);
    }
}

/* Two weights of taps.h, of pixels k and k + 1; past the last, 0. */
INLINE int32_t NAME(pair)(const int32_t *weights, int k, int count, int size) {
    uint32_t first = (uint32_t)weights[(size_t)k * size], second = k + 1 < count ? (uint32_t)weights[(size_t)(k + 1) * size] : 0;
    return (int32_t)((first & 0xFFFF) | second << 16);
}

/* Add a and b times the two weights of a pair to 32-bit sums of the lower and the higher half of each 128 bits. */
FOR_LEVEL INLINE void NAME(add_pair)(NAME(Halves) *sums, Rows a, Rows b, int32_t pair) {
    Rows weights = NAME(weight)(&pair);
    sums[0] += MADD(LOW16(a, b), weights), sums[1] += MADD(HIGH16(a, b), weights);
}

/* As blend, from more than FEW_TAPS lines: summed in 32 bits. */
FOR_LEVEL static void NAME(blend_many)(int16_t *line, const uint8_t *source, ptrdiff_t stride, int width, const int32_t *weights, int count) {
    enum { SHIFT = WEIGHT_BITS - LINE_BITS };
    for (int x = 0; x < width; x += LANES) {
        const uint8_t *from = source + (x + LANES <= width ? x : width - LANES);
        NAME(Halves) sums[2] = {(NAME(Halves)){0} + (1 << (SHIFT - 1)), (NAME(Halves)){0} + (1 << (SHIFT - 1))};
        for (int k = 0; k < count; k += 2) {
            const uint8_t *next = from + (k + 1 < count ? stride : 0);
            NAME(add_pair)(sums, WIDEN(from), WIDEN(next), NAME(pair)(weights, k, count, 1));
            from = next + (k + 1 < count ? stride : 0);
        }
        NAME(store)(line + (x + LANES <= width ? x : width - LANES), PACK(sums[0] >> SHIFT, sums[1] >> SHIFT));
    }
}

FOR_LEVEL static void NAME(blend_any)(int16_t *line, const uint8_t *source, ptrdiff_t stride, int width, const int32_t *weights,
                                      int count, int most) {
    switch (most <= FEW_TAPS ? count : 0) { /* loops of a fixed count keep their weights in registers */
        case 1: NAME(copy)(line, source, width); return;
        case 2: NAME(blend)(line, source, stride, width, weights, 2); return;
        case 3: NAME(blend)(line, source, stride, width, weights, 3); return;
        case 4: NAME(blend)(line, source, stride, width, weights, 4); return;
        case 0: NAME(blend_many)(line, source, stride, width, weights, count); return;
        default: NAME(blend)(line, source, stride, width, weights, count);
    }
}

/* Lines that are narrower than a vector are copied to where they are not. */
FOR_LEVEL static const uint8_t *NAME(widened)(const Source *source, const uint8_t *from, int count, uint8_t *wide) {
    for (int k = 0; k < count; k++) memcpy(wide + k * LANES, from + k * source->stride, source->width);
    return wide;
}

/* Blend lines [y, y + count) of the output. */
FOR_LEVEL static void NAME(blend_lines)(const Source *source, int y, int count) {
    const Taps *taps = source->rows;
    for (int i = 0; i < count; i++) {
        int32_t few[FEW_TAPS], *weights = taps->count <= FEW_TAPS ? few : source->weights;
        int start = taps->start[y + i], lines = taps->count;
        for (int k = 0; k < lines; k++) weights[k] = taps->weights[(size_t)k * taps->axis.size + y + i];
        while (lines > 1 && !weights[lines - 1]) lines--;
        while (lines > 1 && !*weights) weights++, start++, lines--;
        const uint8_t *from = source->pixels + (start - source->top) * source->stride;
        ptrdiff_t stride = source->stride;
        int width = source->width;
        if (width < LANES) from = NAME(widened)(source, from, lines, source->wide), stride = width = LANES;
        NAME(blend_any)(source->lines + (size_t)i * source->in_line, from, stride, width, weights, lines, taps->count);
    }
}

/* Exchange rows and columns of 8x8 numbers in each 128 bits. */
FOR_LEVEL INLINE void NAME(exchange)(Rows *a) {
    Rows b[8], c[8];
    for (int i = 0; i < 4; i++) b[2 * i] = LOW16(a[2 * i], a[2 * i + 1]), b[2 * i + 1] = HIGH16(a[2 * i], a[2 * i + 1]);
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) c[i + 2 * k] = LOW32(b[i + k], b[i + k + 2]), c[i + 2 * k + 1] = HIGH32(b[i + k], b[i + k + 2]);
    for (int i = 0; i < 4; i++) a[2 * i] = LOW64(c[i], c[i + 4]), a[2 * i + 1] = HIGH64(c[i], c[i + 4]);
}

/* From lines to columns of LANES numbers. in_line is a multiple of 8. */
FOR_LEVEL static void NAME(turn)(const Source *source) {
    int in_line = source->in_line;
    for (int x = 0; x < source->width; x += 8) {
        Rows tile[8];
        for (int i = 0; i < 8; i++) tile[i] = GATHER(source->lines + (size_t)i * in_line + x, in_line);
        NAME(exchange)(tile);
        for (int i = 0; i < 8; i++) NAME(store)(source->turned + (size_t)(x + i) * LANES, tile[i]);
    }
}

/* Sum of more than FEW_TAPS columns, `step` columns apart, in grey levels times 32. */
FOR_LEVEL static Rows NAME(sum_many)(const int16_t *from, int step, const int32_t *weights, int count, int size) {
    enum { SHIFT = WEIGHT_BITS + 1 };
    NAME(Halves) sums[2] = {(NAME(Halves)){0} + (1 << (SHIFT - 1)), (NAME(Halves)){0} + (1 << (SHIFT - 1))};
    for (int k = 0; k < count; k += 2) {
        const int16_t *at = from + (size_t)k * step * LANES, *next = at + (k + 1 < count ? step * LANES : 0);
        NAME(add_pair)(sums, NAME(load)(at), NAME(load)(next), NAME(pair)(weights, k, count, size));
    }
    return PACK(sums[0] >> SHIFT, sums[1] >> SHIFT);
}

/* One column of the output: each channel in grey levels times 32, plus `plus`. */
FOR_LEVEL INLINE void NAME(sum)(const Source *source, int x, int channels, int plus, Rows *sums) {
    const Taps *taps = source->columns;
    const int16_t *from = source->turned + (size_t)(taps->start[x] - taps->first) * channels * LANES;
    const int32_t *weights = taps->weights + x;
    int count = taps->count, size = taps->axis.size;
    if (count == 1) {
        for (int c = 0; c < channels; c++) sums[c] = (NAME(load)(from + c * LANES) >> 1) + (int16_t)plus;
    } else if (count <= FEW_TAPS) {
        for (int c = 0; c < channels; c++) sums[c] = NAME(all)(plus);
        for (int k = 0; k < count; k++, from += channels * LANES, weights += size) {
            Rows weight = NAME(weight)(weights);
            for (int c = 0; c < channels; c++) sums[c] += TIMES(NAME(load)(from + c * LANES), weight);
        }
    } else {
        for (int c = 0; c < channels; c++) sums[c] = NAME(sum_many)(from + c * LANES, channels, weights, count, size) + (int16_t)plus;
    }
}

/* Grey levels times 32 of one column of the output, R, G and B; a half is added for rounding. */
FOR_LEVEL INLINE void NAME(pixels)(const Job *job, int x, int kind, Rows *rgb) {
    enum { HALF = 1 << (SHOWN_BITS - 1), MIDDLE = 128 << SHOWN_BITS };
    if (kind == RGB) {
        NAME(sum)(job->source, x, CHANNELS, HALF, rgb);
        return;
    }
    Rows y, cb, cr;
    NAME(sum)(job->source, x, 1, HALF, &y);
    if (kind == GRAY) {
        rgb[0] = rgb[1] = rgb[2] = y;
        return;
    }
    NAME(sum)(job->source + 1, x, 1, -MIDDLE, &cb);
    NAME(sum)(job->source + 2, x, 1, -MIDDLE, &cr);
    /* JFIF: R = Y + 1.402 Cr', G = Y - 0.344136 Cb' - 0.714136 Cr', B = Y + 1.772 Cb', where Cb' is Cb - 128; 0.402 and 0.228 (2 less
     * 1.772) times 2^15 fit. No sum leaves 16 bits: without signs a cubic's weights sum to less than 1.3, so that after two axes Y is
     * below 255 * 32 * 1.3^2 = 13,800 and Cb' and Cr' below 128 * 32 * 1.3^2 = 6,930. */
    rgb[0] = y + cr + TIMES(cr, NAME(all)(13173));
    rgb[1] = y - TIMES(cb, NAME(all)(11277)) - TIMES(cr, NAME(all)(23401));
    rgb[2] = y + cb + cb - TIMES(cb, NAME(all)(7471));
}

/* Two columns of bytes as one of 16 bits. */
FOR_LEVEL INLINE Rows NAME(join)(Rows a, Rows b) {
    Rows none = {0}, white = NAME(all)(255);
    return LOWER(HIGHER(a >> SHOWN_BITS, none), white) | LOWER(HIGHER(b >> SHOWN_BITS, none), white) << 8;
}

/* Show 16 bytes of each of `count` lines, of which `bytes` are in the target. */
FOR_LEVEL INLINE void NAME(show)(Rows *tile, uint8_t *to, ptrdiff_t stride, int bytes, int count) {
    NAME(exchange)(tile);
    if (bytes >= 16 && count == LANES) {
        for (int i = 0; i < 8; i++) SCATTER(to + i * stride, stride, tile[i]);
        return;
    }
    uint8_t lines[LANES * 16];
    for (int i = 0; i < 8; i++) SCATTER(lines + i * 16, 16, tile[i]);
    if (bytes >= 16)
        for (int i = 0; i < count; i++) memcpy(to + i * stride, lines + i * 16, 16);
    else
        for (int i = 0; i < count; i++) memcpy(to + i * stride, lines + i * 16, bytes);
}

/* Blend the columns of lines [y, y + count) of the output, 16 pixels (48 bytes: three tiles) at a time. */
FOR_LEVEL INLINE void NAME(blend_columns)(const Job *job, int y, int count, int kind) {
    const Target *target = job->target;
    uint8_t *to = target->out + y * target->stride;
    int width = target->width, last = width - 1;
    Rows tiles[24] = {0};
    for (int x = 0; x < width; x += 16, to += 16 * CHANNELS) {
        int pixels = width - x < 16 ? width - x : 16;
        for (int i = 0; i < pixels; i += 2) {
            Rows rgb[2 * CHANNELS];
            for (int k = 0; k < 2; k++) {
                int at = x + i + k < width ? x + i + k : last;
                NAME(pixels)(job, job->flip ? last - at : at, kind, rgb + k * CHANNELS);
            }
            for (int c = 0; c < CHANNELS; c++) tiles[i / 2 * CHANNELS + c] = NAME(join)(rgb[2 * c], rgb[2 * c + 1]);
        }
        for (int tile = 0, bytes = pixels * CHANNELS; bytes > 0; tile++, bytes -= 16)
            NAME(show)(tiles + 8 * tile, to + 16 * tile, target->stride, bytes, count);
    }
}

/* Columns stay as they are: lines of RGB are shown as they come. */
FOR_LEVEL static void NAME(show_lines)(const Job *job, int y, int count) {
    const Source *source = job->source;
    const Rows none = {0}, white = NAME(all)(255);
    for (int i = 0; i < count; i++) {
        const int16_t *line = source->lines + (size_t)i * source->in_line;
        uint8_t *to = job->target->out + (y + i) * job->target->stride;
        for (int x = 0; x < source->width; x += LANES) { /* `line` may be read past its width, up to in_line */
            Rows levels = (NAME(load)(line + x) + (1 << (LINE_BITS - 1))) >> LINE_BITS;
            NAME(Bytes) shown = __builtin_convertvector(LOWER(HIGHER(levels, none), white), NAME(Bytes));
            memcpy(to + x, &shown, x + LANES <= source->width ? LANES : source->width - x);
        }
    }
}

/* Bring lines of the target into the cache while the columns are computed: they are written in pieces, of which no processor foresees
 * the next. */
FOR_LEVEL INLINE void NAME(fetch)(const Job *job, int y, int count) {
    for (int i = 0; i < count; i++)
        for (int x = 0; x < job->target->width * CHANNELS; x += CACHE_LINE) __builtin_prefetch(job->target->out + (y + i) * job->target->stride + x, 1);
}

/* Lines [y, end) of the output. */
FOR_LEVEL static void NAME(resize)(const Job *job, int y, int end) {
    for (; y < end; y += LANES) {
        int count = end - y < LANES ? end - y : LANES;
        NAME(fetch)(job, y, count);
        for (int i = 0; i < job->count; i++) {
            NAME(blend_lines)(job->source + i, y, count);
            if (!job->straight) NAME(turn)(job->source + i);
        }
        if (job->straight) NAME(show_lines)(job, y, count);
        else if (job->kind == RGB) NAME(blend_columns)(job, y, count, RGB);
        else if (job->kind == GRAY) NAME(blend_columns)(job, y, count, GRAY);
        else NAME(blend_columns)(job, y, count, YCC);
    }
}

#undef Rows
#undef LANES
#undef NAME
#undef FOR_LEVEL
#undef TIMES
#undef LOWER
#undef HIGHER
#undef MADD
#undef PACK
#undef WIDEN
#undef LOW16
#undef HIGH16
#undef LOW32
#undef HIGH32
#undef LOW64
#undef HIGH64
#undef GATHER
#undef SCATTER
