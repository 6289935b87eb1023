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

/* LANES tokens, one behind the other, into lanes; the lanes beyond n_tokens become 0. */
INLINE void NAME(load_lanes)(const float *tokens, vec *x, long stride, long size, long n_tokens)
{
    for (long i = 0; i < size; i++)
        for (long lane = 0; lane < LANES; lane++)
            ((float *)(x + i * stride))[lane] = lane < n_tokens ? tokens[lane * size + i] : 0.0f;
}

INLINE void NAME(store_lanes)(const vec *y, float *tokens, long size, long n_tokens)
{
    for (long lane = 0; lane < n_tokens; lane++)
        for (long i = 0; i < size; i++)
            tokens[lane * size + i] = ((const float *)(y + i))[lane];
}

/* Attention of LANES queries over all keys of their cell, one head; query already scaled.
 *
 * Any shift leaves a softmax as it is: the largest score that the keys' ranges allow serves as well as the largest
 * score, unless it is so far above that everything underflows. Then the true one is found.
 */
INLINE void NAME(attend)(const vec *query, const float *key, const float *value, const float *range, vec *out,
                         long n_blocks, long n_keys, long dim)
{
    const long width = n_blocks * LANES;
    vec shift = {0}, sum = {0};
    for (long d = 0; d < dim; d++) {
        vec q = query[d * n_blocks], low = q * range[2 * d], high = q * range[2 * d + 1];
        shift += NAME(choose)(low > high, low, high);
        out[d * n_blocks] = (vec){0};
    }
    for (int attempt = 0; attempt < 2; attempt++) {
        if (dim == 2) {
            vec q0 = query[0], q1 = query[n_blocks], first = {0}, second = {0};
            for (long k = 0; k < n_keys; k++) {
                vec e = NAME(exponential)(q0 * key[k] + q1 * key[width + k] - shift);
                sum += e;
                first += e * value[k];
                second += e * value[width + k];
            }
            out[0] = first;
            out[n_blocks] = second;
        } else {
            for (long k = 0; k < n_keys; k++) {
                vec score = -shift;
                for (long d = 0; d < dim; d++)
                    score += query[d * n_blocks] * key[d * width + k];
                vec e = NAME(exponential)(score);
                sum += e;
                for (long d = 0; d < dim; d++)
                    out[d * n_blocks] += e * value[d * width + k];
            }
        }
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
            shift = NAME(choose)(score > shift, score, shift);
        }
        sum = (vec){0};
        for (long d = 0; d < dim; d++)
            out[d * n_blocks] = (vec){0};
    }
    for (long d = 0; d < dim; d++)
        out[d * n_blocks] /= sum;
}

static void NAME(mix_cell)(const struct mix *job, const float *tokens, float *result, void *space)
{
    const long length = job->length, size = job->size, dim = size / job->n_heads;
    const long n_blocks = (length + LANES - 1) / LANES, width = n_blocks * LANES;
    const float scale = 1.0f / sqrtf((float)dim);
    vec *x = space, *qkv = x + size * n_blocks, *mixed = qkv + 3 * size * n_blocks, *placed = mixed + size * n_blocks;
    float *range = (float *)(placed + size);
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
            NAME(attend)(query + b, key, value, range, mixed + head * dim * n_blocks + b, n_blocks, length, dim);
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
#undef LANES
#undef NAME
