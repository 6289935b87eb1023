/* The arithmetic of inference.stack._native, included once per instruction set: NAME() gives each copy its own name,
 * LANES is how many floats the set's vectors hold.
 *
 * Tokens are the lanes of a vector. A cell is held transposed, one vector of tokens per dimension, so that dot products,
 * softmax and layer norm need no sums across lanes.
 */

#define vec NAME(floats)
#define ivec NAME(ints)
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

#define OUTS (LANES == 16 ? 12 : 6) /* outputs whose sums over two vectors of cells fit the registers */

INLINE vec NAME(splat)(float value) { return (vec){0} + value; }

INLINE vec NAME(choose)(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* exp(x) for x <= 88; 0 below -87. */
INLINE vec NAME(exponential)(vec x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits */
    x = NAME(choose)(x > -100.0f, x, NAME(splat)(-100.0f));
    vec turns = x * 1.44269504f + shift;
    ivec power = (ivec)turns - 0x4B400000 + 127;
    turns -= shift;
    vec r = x - turns * 0.693359375f;
    r = r - turns * -2.12194440e-4f;
    vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    ivec bits = (power << 23) & (power > 0);
    return y * (vec)bits;
}

#ifdef LARGER /* in one instruction */
INLINE vec NAME(larger)(vec x, vec y) { return LARGER(x, y); }
#else
INLINE vec NAME(larger)(vec x, vec y) { return NAME(choose)(x > y, x, y); }
#endif

/* 2^x for x <= 0, next to nothing below -125: a polynomial on [-1/2, 1/2] with the smallest relative error, 7e-8. */
INLINE vec NAME(power_of_two)(vec x)
{
    const float shift = 12582912.0f; /* as above */
    x = NAME(larger)(x, NAME(splat)(-125.0f));
    const vec turns = x + shift, r = x - (turns - shift);
    vec y = r * TWO5 + TWO4;
    y = y * r + TWO3;
    y = y * r + TWO2;
    y = y * r + TWO1;
    y = y * r + TWO0;
    return (vec)((ivec)y + ((ivec)turns << 23));
}

/* x/2 (1 + erf(x / sqrt 2)); erf to 1e-9 by a fit of erfc(a) exp(a^2) in 1 / (1 + 0.34 a). */
INLINE vec NAME(gelu)(vec x)
{
    vec a = x * 0.70710678f;
    a = (vec)((ivec)a & 0x7FFFFFFF);
    vec t = 1.0f / (a * 0.34f + 1.0f);
    vec y = t * ERF6 + ERF5;
    y = y * t + ERF4;
    y = y * t + ERF3;
    y = y * t + ERF2;
    y = y * t + ERF1;
    y = y * t + ERF0;
    vec erf = 1.0f - y * t * NAME(exponential)(-a * a);
    erf = NAME(choose)(x < 0.0f, -erf, erf);
    return x * 0.5f * (1.0f + erf);
}

/* y[o] = bias[o] + sum over i of weight[o][i] x[i * stride]; bias may be NULL. */
INLINE void NAME(dense)(const float *weight, const float *bias, const vec *x, long stride, vec *y, long y_stride,
                        long n_out, long n_in)
{
    long o = 0;
    for (; o + TILE <= n_out; o += TILE) {
        vec sum[TILE];
        for (int j = 0; j < TILE; j++)
            sum[j] = NAME(splat)(bias ? bias[o + j] : 0.0f);
        for (long i = 0; i < n_in; i++) {
            const vec value = x[i * stride];
            for (int j = 0; j < TILE; j++)
                sum[j] += weight[(o + j) * n_in + i] * value;
        }
        for (int j = 0; j < TILE; j++)
            y[(o + j) * y_stride] = sum[j];
    }
    for (; o < n_out; o++) {
        vec a0 = NAME(splat)(bias ? bias[o] : 0.0f);
        for (long i = 0; i < n_in; i++)
            a0 += weight[o * n_in + i] * x[i * stride];
        y[o * y_stride] = a0;
    }
}

/* Normalises the sum of y and x over the size dimensions of each token. */
INLINE void NAME(add_and_norm)(vec *y, const vec *x, long stride, const float *norm, const float *bias, long size)
{
    vec mean = {0}, spread = {0};
    for (long i = 0; i < size; i++) {
        y[i] += x[i * stride];
        mean += y[i];
    }
    mean /= (float)size;
    for (long i = 0; i < size; i++) {
        y[i] -= mean;
        spread += y[i] * y[i];
    }
    spread = spread / (float)size + NORM_EPS;
    for (int lane = 0; lane < LANES; lane++)
        spread[lane] = 1.0f / sqrtf(spread[lane]);
    for (long i = 0; i < size; i++)
        y[i] = y[i] * spread * norm[i] + bias[i];
}

/* A matrix of n_rows x n_columns, transposed: to[j * to_stride + i] = from[i * stride + j]. */
#if LANES == 8
INLINE void NAME(transpose_8)(const float *from, long stride, float *to, long to_stride)
{
    vec a[8], b[8];
    for (int i = 0; i < 8; i++)
        memcpy(a + i, from + i * stride, sizeof(vec));
    for (int i = 0; i < 8; i += 2) {
        b[i] = SHUFFLE(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = SHUFFLE(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = SHUFFLE(b[i + j], b[i + 2 + j], 0, 1, 8, 9, 4, 5, 12, 13);
            a[i + 2 * j + 1] = SHUFFLE(b[i + j], b[i + 2 + j], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        b[i] = SHUFFLE(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        b[i + 4] = SHUFFLE(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int i = 0; i < 8; i++)
        memcpy(to + i * to_stride, b + i, sizeof(vec));
}
#endif

static void NAME(transpose)(const float *from, long stride, float *to, long to_stride, long n_rows, long n_columns)
{
    long i = 0;
#if LANES == 8
    for (; i + 8 <= n_rows; i += 8) {
        long j = 0;
        for (; j + 8 <= n_columns; j += 8)
            NAME(transpose_8)(from + i * stride + j, stride, to + j * to_stride + i, to_stride);
        for (; j < n_columns; j++)
            for (long k = i; k < i + 8; k++)
                to[j * to_stride + k] = from[k * stride + j];
    }
#endif
    for (; i < n_rows; i++)
        for (long j = 0; j < n_columns; j++)
            to[j * to_stride + i] = from[i * stride + j];
}

/* LANES tokens, one behind the other, into lanes; the lanes beyond n_tokens become 0. */
INLINE void NAME(load_lanes)(const float *tokens, vec *x, long stride, long size, long n_tokens)
{
    if (n_tokens < LANES)
        for (long i = 0; i < size; i++)
            x[i * stride] = (vec){0};
    NAME(transpose)(tokens, size, (float *)x, stride * LANES, n_tokens, size);
}

INLINE void NAME(store_lanes)(const vec *y, float *tokens, long size, long n_tokens)
{
    NAME(transpose)((const float *)y, LANES, tokens, size, size, n_tokens);
}

/* Unnormalised shares of all keys for LANES queries, one head. Two loops, here and in gather, because the constants of
 * the power and the sums together do not fit the registers.
 */
static void NAME(weigh)(const vec *query, const float *key, vec shift, vec *share, long n_blocks, long n_keys, long dim)
{
    if (dim == 2) {
        const vec q0 = query[0], q1 = query[n_blocks];
        const float *second = key + n_blocks * LANES;
        for (long k = 0; k < n_keys; k++)
            share[k] = NAME(power_of_two)(q0 * key[k] + (q1 * second[k] - shift));
        return;
    }
    for (long k = 0; k < n_keys; k++) {
        vec score = -shift;
        for (long d = 0; d < dim; d++)
            score += query[d * n_blocks] * key[d * n_blocks * LANES + k];
        share[k] = NAME(power_of_two)(score);
    }
}

/* The sum of the shares, and the values of one or two dimensions weighted by them; every second key apart, because a sum
 * waits for the one before.
 */
static vec NAME(gather)(const vec *share, const float *value, vec *out, long n_blocks, long n_keys, int is_pair)
{
    const float *other = value + (is_pair ? n_blocks * LANES : 0);
    vec sum[2] = {{0}, {0}}, first[2] = {{0}, {0}}, second[2] = {{0}, {0}};
    long k = 0;
    for (; k + 2 <= n_keys; k += 2)
        for (int i = 0; i < 2; i++) {
            sum[i] += share[k + i];
            first[i] += share[k + i] * value[k + i];
            second[i] += share[k + i] * other[k + i];
        }
    if (k < n_keys) {
        sum[0] += share[k];
        first[0] += share[k] * value[k];
        second[0] += share[k] * other[k];
    }
    out[0] = first[0] + first[1];
    if (is_pair)
        out[n_blocks] = second[0] + second[1];
    return sum[0] + sum[1];
}

/* Attention of LANES queries over all keys of their cell, one head; queries are scaled for powers of two.
 *
 * Any shift leaves a softmax as it is: the largest score that the keys' ranges allow serves as well as the largest
 * score, unless it is so far above that everything underflows. Then the true one is found.
 */
INLINE void NAME(attend)(const vec *query, const float *key, const float *value, const float *range, vec *out,
                         vec *share, long n_blocks, long n_keys, long dim)
{
    const long width = n_blocks * LANES;
    vec shift = {0}, sum = {0};
    for (long d = 0; d < dim; d++) {
        vec q = query[d * n_blocks], low = q * range[2 * d], high = q * range[2 * d + 1];
        shift += NAME(larger)(low, high);
    }
    for (int attempt = 0; attempt < 2; attempt++) {
        NAME(weigh)(query, key, shift, share, n_blocks, n_keys, dim);
        for (long d = 0; d < dim; d += 2)
            sum = NAME(gather)(share, value + d * width, out + d * n_blocks, n_blocks, n_keys, d + 1 < dim);
        int is_lost = 0;
        for (int lane = 0; lane < LANES; lane++)
            is_lost |= !(sum[lane] > SMALLEST_SUM);
        if (!is_lost)
            break;
        shift = NAME(splat)(-INFINITY);
        for (long k = 0; k < n_keys; k++) {
            vec score = {0};
            for (long d = 0; d < dim; d++)
                score += query[d * n_blocks] * key[d * width + k];
            shift = NAME(larger)(score, shift);
        }
    }
    for (long d = 0; d < dim; d++)
        out[d * n_blocks] /= sum;
}

static void NAME(mix_cell)(const struct mix *job, const float *tokens, float *result, void *space)
{
    const long length = job->length, size = job->size, dim = size / job->n_heads;
    const long n_blocks = (length + LANES - 1) / LANES, width = n_blocks * LANES;
    const float scale = LOG2E / sqrtf((float)dim);
    vec *x = space, *qkv = x + size * n_blocks, *mixed = qkv + 3 * size * n_blocks, *placed = mixed + size * n_blocks;
    vec *share = placed + size;
    float *range = (float *)(share + length);
    for (long b = 0; b < n_blocks; b++) {
        const long n_tokens = length - b * LANES < LANES ? length - b * LANES : LANES;
        NAME(load_lanes)(tokens + b * LANES * size, x + b, n_blocks, size, n_tokens);
        NAME(load_lanes)(job->place + b * LANES * size, placed, 1, size, n_tokens);
        for (long i = 0; i < size; i++)
            placed[i] += x[i * n_blocks + b];
        NAME(dense)(job->qkv, NULL, placed, 1, qkv + b, n_blocks, 3 * size, size);
        for (long i = 0; i < size; i++)
            qkv[i * n_blocks + b] *= scale;
    }
    for (long head = 0; head < job->n_heads; head++) {
        const vec *query = qkv + head * dim * n_blocks;
        const float *key = (const float *)(qkv + (size + head * dim) * n_blocks);
        const float *value = (const float *)(qkv + (2 * size + head * dim) * n_blocks);
        for (long d = 0; d < dim; d++) {
            float low = INFINITY, high = -INFINITY;
            for (long k = 0; k < length; k++) {
                const float item = key[d * width + k];
                low = item < low ? item : low;
                high = item > high ? item : high;
            }
            range[2 * d] = low;
            range[2 * d + 1] = high;
        }
        for (long b = 0; b < n_blocks; b++)
            NAME(attend)(query + b, key, value, range, mixed + head * dim * n_blocks + b, share, n_blocks, length,
                         dim);
    }
    for (long b = 0; b < n_blocks; b++) {
        const long n_tokens = length - b * LANES < LANES ? length - b * LANES : LANES;
        NAME(dense)(job->proj, job->proj_bias, mixed + b, n_blocks, placed, 1, size, size);
        NAME(add_and_norm)(placed, x + b, n_blocks, job->norm, job->norm_bias, size);
        NAME(store_lanes)(placed, result + b * LANES * size, size, n_tokens);
    }
}

static void NAME(transform_tokens)(const struct transform *job, const float *tokens, float *result, long n_tokens,
                                   void *space)
{
    const long size = job->size, hidden = job->hidden;
    vec *x = space, *inner = x + size, *y = inner + hidden;
    NAME(load_lanes)(tokens, x, 1, size, n_tokens);
    NAME(dense)(job->w1, job->b1, x, 1, inner, 1, hidden, size);
    for (long i = 0; i < hidden; i++)
        inner[i] = NAME(gelu)(inner[i]);
    NAME(dense)(job->w2, job->b2, inner, 1, y, 1, size, hidden);
    NAME(add_and_norm)(y, x, 1, job->norm, job->norm_bias, size);
    NAME(store_lanes)(y, result, size, n_tokens);
}

/* Scores of every token of a cell with every other, one head after the other, in the reference's order of roundings: a
 * product, then the others added to it, then the scale. keys is space for one head.
 */
static void NAME(score_cell)(const float *qkv, float *scores, long length, long size, long n_heads, float *keys)
{
    const long dim = size / n_heads;
    const float scale = (float)(1.0 / sqrt((double)dim));
    for (long head = 0; head < n_heads; head++) {
        const float *query = qkv + head * dim, *key = query + size;
        for (long k = 0; k < length; k++)
            for (long d = 0; d < dim; d++)
                keys[d * length + k] = key[k * 3 * size + d];
        for (long q = 0; q < length; q++, scores += length) {
            const float *own = query + q * 3 * size;
            for (long k = 0; k < length; k++)
                scores[k] = own[0] * keys[k];
            for (long d = 1; d < dim; d++)
                for (long k = 0; k < length; k++)
                    scores[k] = own[d] * keys[d * length + k] + scores[k];
            for (long k = 0; k < length; k++)
                scores[k] *= scale;
        }
    }
}

/* The values of a cell's tokens weighted by their shares, each product rounded before it is added, as in the reference.
 * LANES queries at a time, whose shares are turned into the lanes of a vector.
 */
static void NAME(weigh_cell)(const float *shares, const float *qkv, float *result, long length, long size, long n_heads,
                             float *turned)
{
    const long dim = size / n_heads;
    for (long head = 0; head < n_heads; head++, shares += length * length) {
        const float *value = qkv + 2 * size + head * dim;
        for (long first = 0; first < length; first += LANES) {
            const long n = length - first < LANES ? length - first : LANES;
            for (long k = 0; k < length; k++)
                for (long lane = 0; lane < LANES; lane++)
                    turned[k * LANES + lane] = shares[(first + (lane < n ? lane : 0)) * length + k];
            for (long d = 0; d < dim; d++) {
                vec sum = {0};
                for (long k = 0; k < length; k++) {
                    vec product = *(const vec *)(turned + k * LANES) * value[k * 3 * size + d];
                    ROUNDED(product);
                    sum += product;
                }
                for (long lane = 0; lane < n; lane++)
                    result[(first + lane) * size + head * dim + d] = ((const float *)&sum)[lane];
            }
        }
    }
}

/* Sums of products for n_out rows of weights and n_vecs vectors of cells, added to the tile of outputs: y[o] holds the
 * cells of one output, x the vectors of a panel. Written for constants, so that the sums stay in registers.
 */
INLINE void NAME(multiply_some)(const float *weight, long stride, const vec *x, float *y, long y_stride, long depth,
                                const float *bias, int is_first, int n_out, int n_vecs)
{
    vec sum[OUTS][2];
    for (int o = 0; o < n_out; o++)
        for (int v = 0; v < n_vecs; v++)
            sum[o][v] = (vec){0};
    for (long i = 0; i < depth; i++) {
        for (int o = 0; o < n_out; o++)
            for (int v = 0; v < n_vecs; v++)
                sum[o][v] += weight[o * stride + i] * x[2 * i + v];
    }
#pragma GCC unroll 12
    for (int o = 0; o < n_out; o++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vecs; v++) {
            vec *to = (vec *)(y + o * y_stride) + v;
            if (!is_first)
                *to += sum[o][v];
            else
                *to = bias ? bias[o] + sum[o][v] : sum[o][v];
        }
}

/* One panel of cells with n_out <= OUTS outputs. */
static void NAME(multiply_tile)(const float *weight, long stride, const vec *x, float *y, long y_stride, long depth,
                                const float *bias, int is_first, int n_out, int n_vecs)
{
    if (n_out == OUTS && n_vecs == 2)
        NAME(multiply_some)(weight, stride, x, y, y_stride, depth, bias, is_first, OUTS, 2);
    else if (n_out == OUTS)
        NAME(multiply_some)(weight, stride, x, y, y_stride, depth, bias, is_first, OUTS, 1);
    else
        for (int o = 0; o < n_out; o++)
            NAME(multiply_some)(weight + o * stride, stride, x, y + o * y_stride, y_stride, depth,
                                bias ? bias + o : NULL, is_first, 1, 2);
}

/* The panel of 2 LANES cells, transposed as multiply_block reads it; cells that there are not become 0. */
static void NAME(pack_panel)(const struct product *job, long panel, float *packed)
{
    const long wide = 2 * LANES, n_panels = (job->n_cells + wide - 1) / wide, left = job->n_cells - panel * wide;
    const float *rows = job->cells + panel * wide * job->n_in;
    for (long first = 0; first < job->n_in; first += DEPTH) {
        const long depth = job->n_in - first < DEPTH ? job->n_in - first : DEPTH;
        float *part = packed + (first * n_panels + panel * depth) * wide;
        if (left < wide)
            memset(part, 0, (size_t)(depth * wide) * 4);
        NAME(transpose)(rows + first, job->n_in, part, wide, left < wide ? left : wide, depth);
    }
}

/* n_out <= WIDE outputs of all cells. Products are summed DEPTH at a time, and these sums one after the other: that is
 * the order in which the reference's library works on processors with AVX2, see linear.py.
 */
static void NAME(multiply_block)(const struct product *job, const float *packed, long first_out, long n_out,
                                 float *space)
{
    const long wide = 2 * LANES, n_panels = (job->n_cells + wide - 1) / wide;
    const long stride = n_panels * wide + 16; /* not a power of two, whose multiples share few places of the cache */
    const float *weight = job->weight + first_out * job->stride, *bias = job->bias ? job->bias + first_out : NULL;
    for (long first = 0; first < job->n_in; first += DEPTH) {
        const long depth = job->n_in - first < DEPTH ? job->n_in - first : DEPTH;
        for (long o = 0; o < n_out; o += OUTS) {
            /* The weights of the next tile come from memory while the cells of this one are multiplied. */
            const float *next = NULL;
            if (o + 2 * OUTS <= n_out)
                next = weight + (o + OUTS) * job->stride + first;
            else if (first + DEPTH < job->n_in && n_out >= OUTS)
                next = weight + first + DEPTH;
            for (long p = 0; p < n_panels; p++) {
                for (long i = p * 16; next && i < DEPTH; i += n_panels * 16)
                    for (int j = 0; j < OUTS; j++)
                        __builtin_prefetch(next + j * job->stride + i);
                NAME(multiply_tile)(weight + o * job->stride + first, job->stride,
                                    (const vec *)(packed + (first * n_panels + p * depth) * wide),
                                    space + o * stride + p * wide, stride, depth, bias ? bias + o : NULL, !first,
                                    (int)(n_out - o < OUTS ? n_out - o : OUTS),
                                    job->n_cells - p * wide <= LANES ? 1 : 2);
            }
        }
    }
    for (long cell = 0; cell < job->n_cells; cell += 16) /* few lines of the result at once */
        NAME(transpose)(space + cell, stride, job->result + cell * job->n_out + first_out, job->n_out, n_out,
                        job->n_cells - cell < 16 ? job->n_cells - cell : 16);
}

/* The values of one head with its dimensions as rows, as the product with the shares reads them. */
static void NAME(turn_values)(const struct attention *job, const float *value, float *turned)
{
    NAME(transpose)(value, job->stride, turned, job->n_rows, job->n_rows, job->dim);
}

/* All n_out outputs of one panel, OUTS at a time; the last ones together with some before them, computed twice. */
static void NAME(multiply_panel)(const float *weight, long stride, const vec *x, float *y, long depth, long n_out)
{
    for (long o = 0; o < n_out; o += OUTS) {
        const long first = n_out >= OUTS && o > n_out - OUTS ? n_out - OUTS : o;
        NAME(multiply_tile)(weight + first * stride, stride, x, y + first * 2 * LANES, 2 * LANES, depth, NULL, 1,
                            (int)(n_out < OUTS ? n_out : OUTS), 2);
    }
}

/* Attention between rows for the 2 LANES rows from first_row on, one head. Rows are the lanes: softmax needs no sums
 * across them, and its shares lie as the second product reads its cells. The first n_keep rows see only each other.
 */
static void NAME(attend_rows)(const struct attention *job, const float *query, const float *key, const float *turned,
                              long first_row, float *result, void *space)
{
    const long wide = 2 * LANES, dim = job->dim, rest = job->n_rows - first_row, n = rest < wide ? rest : wide;
    const long n_keys = first_row + n <= job->n_keep ? job->n_keep : job->n_rows;
    const float scale = LOG2E / sqrtf((float)dim);
    vec *x = space, *share = x + 2 * dim, *out = share + 2 * job->n_rows, scales[2];
    memset(x, 0, (size_t)(n < wide ? dim * wide : 0) * 4);
    NAME(transpose)(query, job->stride, (float *)x, wide, n, dim);
    for (long i = 0; i < 2 * dim; i++)
        x[i] *= scale;
    NAME(multiply_panel)(key, job->stride, x, (float *)share, dim, n_keys);
    for (int v = 0; v < 2; v++) {
        ivec is_kept;
        for (long lane = 0; lane < LANES; lane++)
            is_kept[lane] = first_row + v * LANES + lane < job->n_keep ? -1 : 0;
        const long n_common = job->n_keep && job->n_keep < n_keys ? job->n_keep : n_keys;
        vec most = share[v], sum = {0};
        for (long k = 1; k < n_common; k++)
            most = NAME(larger)(most, share[2 * k + v]);
        for (long k = n_common; k < n_keys; k++)
            most = NAME(larger)(most, NAME(choose)(is_kept, most, share[2 * k + v]));
        for (long k = 0; k < n_common; k++)
            sum += share[2 * k + v] = NAME(power_of_two)(share[2 * k + v] - most);
        for (long k = n_common; k < n_keys; k++)
            sum += share[2 * k + v] =
                (vec)(~is_kept & (ivec)NAME(power_of_two)(NAME(choose)(is_kept, (vec){0}, share[2 * k + v] - most)));
        scales[v] = 1.0f / sum;
    }
    NAME(multiply_panel)(turned, job->n_rows, share, (float *)out, n_keys, dim);
    for (long d = 0; d < dim; d++)
        for (int v = 0; v < 2; v++)
            out[2 * d + v] *= scales[v];
    NAME(transpose)((const float *)out, wide, result, job->n_heads * dim, dim, n);
}

/* Counts of one cell; where summing probabilities from 0 upwards would take too long, UNDECIDED. */
static long NAME(draw_row)(const float *mean, const float *dispersion, uint64_t key, float *counts, long n_genes)
{
    long n_undecided = 0;
    for (long gene = 0; gene < n_genes; gene++) {
        uint64_t bits = key + (uint64_t)(gene + 1) * GOLDEN;
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
        bits ^= bits >> 31;
        const double u = ((double)(int64_t)(bits >> 11) + 0.5) * 0x1p-53, mu = mean[gene];
        counts[gene] = 0.0f;
        if (u <= 1.0 - mu) /* below exp(-mu), which no dispersion makes the probability of 0 fall short of */
            continue;
        const double theta = dispersion[gene] > SMALLEST_DISPERSION ? dispersion[gene] : SMALLEST_DISPERSION;
        double term = exp(-theta * log1p(mu / theta)), cumulative = term;
        if (u <= term)
            continue;
        const double odds = mu / (mu + theta);
        long count = 0;
        while (cumulative < u && count < MAX_SUMMED && mu <= LARGE_MEAN) {
            count++;
            term *= (theta + (double)(count - 1)) / (double)count * odds;
            cumulative += term;
        }
        if (cumulative < u) {
            counts[gene] = UNDECIDED;
            n_undecided++;
        } else {
            counts[gene] = (float)count;
        }
    }
    return n_undecided;
}

/* The lower median over the rows of each of n_genes <= LANES columns: its bits are found one by one, from the sign on.
 * Floats order as their bits do once those of negative numbers are turned around.
 */
static void NAME(median_block)(const float *rows, float *result, long n_rows, long stride, long n_genes, void *space)
{
    ivec *key = space, found = (ivec){0} + INT32_MIN;
    const ivec most = (ivec){0} + (int32_t)((n_rows - 1) / 2);
    for (long row = 0; row < n_rows; row++) {
        int32_t bits[LANES] = {0};
        memcpy(bits, rows + row * stride, (size_t)n_genes * 4);
        ivec one;
        memcpy(&one, bits, sizeof one);
        key[row] = one ^ ((one >> 31) & 0x7FFFFFFF);
    }
    for (int bit = 31; bit >= 0; bit--) {
        const ivec next = found ^ ((ivec){0} + (int32_t)(1u << bit));
        ivec below = {0};
        for (long row = 0; row < n_rows; row++)
            below -= key[row] < next;
        const ivec is_more = below <= most;
        found = (next & is_more) | (found & ~is_more);
    }
    found ^= (found >> 31) & 0x7FFFFFFF;
    memcpy(result, &found, (size_t)n_genes * 4);
}

#undef vec
#undef ivec
#undef OUTS
#undef LARGER
#undef LANES
#undef NAME
