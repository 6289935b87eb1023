/* inference.stack._native: the model's small dense parts and its random counts, for the processor.
 *
 * Every function takes addresses of contiguous float32 arrays that the caller has checked, and works without the
 * interpreter's lock. One build holds a copy of the kernels per instruction set and picks the best at run time.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 5 /* of what the functions take, see ops_native.py */
#define MOST_LANES 16
#define DEPTH 192 /* products summed at once by multiply, see linear.py */
#define WIDE 48 /* outputs of multiply that one thread computes at once */
#define TILE 8 /* outputs of a linear layer summed at once: as many as hide the latency of an addition */
#define NORM_EPS 1e-5f
#define SMALLEST_SUM 1e-20f
#define SMALLEST_DISPERSION 1e-30
#define LARGE_MEAN 40.0
#define MAX_SUMMED 48
#define UNDECIDED -1.0f
#define BROAD_MEAN 20.0 /* these five as in moments.py */
#define NARROW 8.0
#define MOST_TERMS 1000
#define REST 1e-5
#define LEAST_DISPERSION 1e-3
#define GOLDEN 0x9E3779B97F4A7C15u
#define LOG2E 1.44269504f
#define TWO0 1.00000007f
#define TWO1 0.693146967f
#define TWO2 0.240221197f
#define TWO3 0.0555071331f
#define TWO4 0.00967554152f
#define TWO5 0.00132764602f
#define ERF0 0.18014271557331085f
#define ERF1 0.3050981461925507f
#define ERF2 -0.2861562669277191f
#define ERF3 1.2113826274871826f
#define ERF4 -1.25116548538208f
#define ERF5 1.0876984596252441f
#define ERF6 -0.24700036644935608f

struct mix {
    const float *place, *qkv, *proj, *proj_bias, *norm, *norm_bias;
    long length, size, n_heads;
};

struct transform {
    const float *w1, *b1, *w2, *b2, *norm, *norm_bias;
    long size, hidden;
};

struct product {
    const float *cells, *weight, *bias; /* bias may be NULL */
    float *result;
    long n_cells, n_out, n_in, stride; /* stride: from one output's weights to the next */
};

struct attention { /* between the rows of a window, which lie stride floats apart */
    long n_rows, n_heads, dim, stride, n_keep;
};

/* Keeps a product from being fused with the addition that follows. */
#if defined(__x86_64__)
#define ROUNDED(x) __asm__("" : "+x"(x))
#else
#define ROUNDED(x) __asm__("" : "+m"(x))
#endif

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

#define INLINE static inline __attribute__((always_inline))
#define PASTE(a, b) a##_##b

#define NAME(x) PASTE(x, plain)
#define LANES 4
#include "kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAS_VARIANTS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define NAME(x) PASTE(x, avx2)
#define LANES 8
#define LARGER(x, y) __builtin_ia32_maxps256(x, y)
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#define NAME(x) PASTE(x, avx512)
#define LANES 16
#include "kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

struct variant {
    const char *name;
    long lanes;
    void (*mix_cell)(const struct mix *, const float *, float *, void *);
    void (*transform_tokens)(const struct transform *, const float *, float *, long, void *);
    long (*draw_row)(const float *, const float *, uint64_t, float *, long);
    void (*median_block)(const float *, float *, long, long, long, void *);
    void (*pack_panel)(const struct product *, long, float *);
    void (*multiply_block)(const struct product *, const float *, long, long, float *);
    void (*score_cell)(const float *, float *, long, long, long, float *);
    void (*weigh_cell)(const float *, const float *, float *, long, long, long, float *);
    void (*turn_values)(const struct attention *, const float *, float *);
    void (*attend_rows)(const struct attention *, const float *, const float *, const float *, long, float *, void *);
};

static const struct variant VARIANTS[] = {
    {"plain", 4, mix_cell_plain, transform_tokens_plain, draw_row_plain, median_block_plain,
     pack_panel_plain, multiply_block_plain, score_cell_plain, weigh_cell_plain, turn_values_plain, attend_rows_plain},
#ifdef HAS_VARIANTS
    {"avx2", 8, mix_cell_avx2, transform_tokens_avx2, draw_row_avx2, median_block_avx2,
     pack_panel_avx2, multiply_block_avx2, score_cell_avx2, weigh_cell_avx2, turn_values_avx2, attend_rows_avx2},
    {"avx512", 16, mix_cell_avx512, transform_tokens_avx512, draw_row_avx512, median_block_avx512,
     pack_panel_avx512, multiply_block_avx512, score_cell_avx512, weigh_cell_avx512, turn_values_avx512, attend_rows_avx512},
#endif
};
static int chosen;

static int n_usable(void)
{
#ifdef HAS_VARIANTS
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl"))
        return 2;
    return 3;
#else
    return 1;
#endif
}

/* Expectation of log1p(scale x) for negative-binomial x; logs[k] is log1p(scale k). See moments.py. */
static double expect_one(double mu, double dispersion, double scale, const double *logs)
{
    const double theta = dispersion > LEAST_DISPERSION ? dispersion : LEAST_DISPERSION;
    if (mu > BROAD_MEAN && theta >= NARROW) {
        const double slope = scale / (1.0 + scale * mu);
        return log1p(scale * mu) - slope * slope * (mu + mu * mu / theta) / 2.0;
    }
    const double odds = mu / (mu + theta);
    double term = exp(-theta * log1p(mu / theta)), left = 1.0 - term, total = 0.0, beyond = mu;
    long count = 1;
    for (; count < MOST_TERMS && left > REST; count++) {
        term *= (theta + (double)(count - 1)) / (double)count * odds;
        total += term * logs[count];
        left -= term;
        beyond -= (double)count * term;
    }
    if (left <= 0.0)
        return total;
    if (left <= REST || beyond <= (double)count * left)
        return total + left * logs[count - 1];
    return total + left * log1p(beyond / left * scale);
}

static void *make_space(long n_floats)
{
    void *space = NULL;
    return posix_memalign(&space, 4 * MOST_LANES, (size_t)n_floats * 4) ? NULL : space;
}

static PyObject *done(int failed)
{
    if (failed)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

#define ADDRESS(x) ((float *)(uintptr_t)(x))

static PyObject *mix_tokens(PyObject *self, PyObject *args)
{
    unsigned long long at[8];
    long n_cells, length, size, n_heads;
    int n_threads, failed = 0;
    if (!PyArg_ParseTuple(args, "KKKKKKKKlllli", at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6, at + 7, &n_cells,
                          &length, &size, &n_heads, &n_threads))
        return NULL;
    const struct mix job = {ADDRESS(at[2]), ADDRESS(at[3]), ADDRESS(at[4]), ADDRESS(at[5]),
                            ADDRESS(at[6]), ADDRESS(at[7]), length,         size,
                            n_heads};
    const float *tokens = ADDRESS(at[0]);
    float *result = ADDRESS(at[1]);
    const long lanes = VARIANTS[chosen].lanes, width = (length + lanes - 1) / lanes * lanes;
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel num_threads(n_threads)
    {
        void *space = make_space((5 * width + lanes + 2) * size + length * lanes);
        if (space) {
#pragma omp for schedule(static)
            for (long cell = 0; cell < n_cells; cell++)
                VARIANTS[chosen].mix_cell(&job, tokens + cell * length * size, result + cell * length * size, space);
        } else {
#pragma omp atomic write
            failed = 1;
        }
        free(space);
    }
    Py_END_ALLOW_THREADS
    return done(failed);
}

static PyObject *transform_tokens(PyObject *self, PyObject *args)
{
    unsigned long long at[8];
    long n_tokens, size, hidden;
    int n_threads, failed = 0;
    if (!PyArg_ParseTuple(args, "KKKKKKKKllli", at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6, at + 7, &n_tokens,
                          &size, &hidden, &n_threads))
        return NULL;
    const struct transform job = {ADDRESS(at[2]), ADDRESS(at[3]), ADDRESS(at[4]), ADDRESS(at[5]),
                                  ADDRESS(at[6]), ADDRESS(at[7]), size,           hidden};
    const float *tokens = ADDRESS(at[0]);
    float *result = ADDRESS(at[1]);
    const long lanes = VARIANTS[chosen].lanes, n_blocks = (n_tokens + lanes - 1) / lanes;
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel num_threads(n_threads)
    {
        void *space = make_space((2 * size + hidden) * lanes);
        if (space) {
#pragma omp for schedule(static)
            for (long block = 0; block < n_blocks; block++) {
                const long first = block * lanes, rest = n_tokens - first;
                VARIANTS[chosen].transform_tokens(&job, tokens + first * size, result + first * size,
                                                  rest < lanes ? rest : lanes, space);
            }
        } else {
#pragma omp atomic write
            failed = 1;
        }
        free(space);
    }
    Py_END_ALLOW_THREADS
    return done(failed);
}

static PyObject *draw_counts(PyObject *self, PyObject *args)
{
    unsigned long long at[5];
    long n_rows, n_genes, n_undecided = 0;
    int n_threads;
    if (!PyArg_ParseTuple(args, "KKKKKlli", at, at + 1, at + 2, at + 3, at + 4, &n_rows, &n_genes, &n_threads))
        return NULL;
    const float *mean = ADDRESS(at[0]), *dispersion = ADDRESS(at[1]);
    float *counts = ADDRESS(at[2]);
    const uint64_t *keys = (const uint64_t *)(uintptr_t)at[3];
    const int64_t *window = (const int64_t *)(uintptr_t)at[4];
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) reduction(+ : n_undecided)
    for (long row = 0; row < n_rows; row++)
        n_undecided += VARIANTS[chosen].draw_row(mean + row * n_genes, dispersion + window[row] * n_genes, keys[row],
                                                 counts + row * n_genes, n_genes);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(n_undecided);
}

static PyObject *expect_log(PyObject *self, PyObject *args)
{
    unsigned long long at[4];
    long n_rows, n_genes;
    int n_threads;
    if (!PyArg_ParseTuple(args, "KKKKlli", at, at + 1, at + 2, at + 3, &n_rows, &n_genes, &n_threads))
        return NULL;
    const float *mean = ADDRESS(at[0]), *dispersion = ADDRESS(at[1]), *scale = ADDRESS(at[2]);
    float *result = ADDRESS(at[3]);
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (long row = 0; row < n_rows; row++) {
        double logs[MOST_TERMS];
        for (long count = 0; count < MOST_TERMS; count++)
            logs[count] = log1p((double)scale[row] * (double)count);
        for (long i = row * n_genes; i < (row + 1) * n_genes; i++)
            result[i] = (float)expect_one(mean[i], dispersion[i], scale[row], logs);
    }
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *lower_median(PyObject *self, PyObject *args)
{
    unsigned long long at[2];
    long n_windows, n_rows, n_genes;
    int n_threads, failed = 0;
    if (!PyArg_ParseTuple(args, "KKllli", at, at + 1, &n_windows, &n_rows, &n_genes, &n_threads))
        return NULL;
    const float *raw = ADDRESS(at[0]);
    float *result = ADDRESS(at[1]);
    const long lanes = VARIANTS[chosen].lanes, n_blocks = (n_genes + lanes - 1) / lanes;
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel num_threads(n_threads)
    {
        void *space = make_space(n_rows * lanes);
        if (space) {
#pragma omp for schedule(static)
            for (long block = 0; block < n_windows * n_blocks; block++) {
                const long window = block / n_blocks, first = block % n_blocks * lanes, rest = n_genes - first;
                VARIANTS[chosen].median_block(raw + window * n_rows * n_genes + first, result + window * n_genes + first,
                                              n_rows, n_genes, rest < lanes ? rest : lanes, space);
            }
        } else {
#pragma omp atomic write
            failed = 1;
        }
        free(space);
    }
    Py_END_ALLOW_THREADS
    return done(failed);
}

static PyObject *multiply(PyObject *self, PyObject *args)
{
    unsigned long long at[4];
    long n_cells, n_out, n_in, stride;
    int n_threads, failed = 0;
    if (!PyArg_ParseTuple(args, "KKKKlllli", at, at + 1, at + 2, at + 3, &n_cells, &n_out, &n_in, &stride, &n_threads))
        return NULL;
    const struct variant *best = VARIANTS + chosen;
    const long wide = 2 * best->lanes, n_panels = (n_cells + wide - 1) / wide, n_blocks = (n_out + WIDE - 1) / WIDE;
    const struct product job = {ADDRESS(at[0]), ADDRESS(at[1]), ADDRESS(at[2]), ADDRESS(at[3]),
                                n_cells,        n_out,          n_in,           stride};
    Py_BEGIN_ALLOW_THREADS
    float *packed = make_space(n_panels * wide * n_in);
    if (packed) {
#pragma omp parallel num_threads(n_threads)
        {
            float *space = make_space(WIDE * (n_panels * wide + 16));
            if (!space) {
#pragma omp atomic write
                failed = 1;
            }
#pragma omp for schedule(dynamic)
            for (long panel = 0; panel < n_panels; panel++)
                best->pack_panel(&job, panel, packed);
#pragma omp for schedule(dynamic)
            for (long block = 0; block < n_blocks; block++) {
                const long first = block * WIDE, rest = n_out - first;
                if (space)
                    best->multiply_block(&job, packed, first, rest < WIDE ? rest : WIDE, space);
            }
            free(space);
        }
    } else {
        failed = 1;
    }
    free(packed);
    Py_END_ALLOW_THREADS
    return done(failed);
}

/* Both parts of exact attention among a cell's tokens; there are results of the shares where is_second. */
static PyObject *attend_exactly(PyObject *args, int is_second)
{
    unsigned long long at[3];
    long n_cells, length, size, n_heads;
    int n_threads, failed = 0;
    if (!PyArg_ParseTuple(args, "KKKlllli", at, at + 1, at + 2, &n_cells, &length, &size, &n_heads, &n_threads))
        return NULL;
    const float *qkv = ADDRESS(at[0]);
    float *scores = ADDRESS(at[1]), *result = ADDRESS(at[2]);
    const struct variant *best = VARIANTS + chosen;
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel num_threads(n_threads)
    {
        float *space = make_space(length * (is_second ? best->lanes : size));
        if (space) {
#pragma omp for schedule(static)
            for (long cell = 0; cell < n_cells; cell++) {
                const float *own = qkv + cell * length * 3 * size;
                float *part = scores + cell * n_heads * length * length;
                if (is_second)
                    best->weigh_cell(part, own, result + cell * length * size, length, size, n_heads, space);
                else
                    best->score_cell(own, part, length, size, n_heads, space);
            }
        } else {
#pragma omp atomic write
            failed = 1;
        }
        free(space);
    }
    Py_END_ALLOW_THREADS
    return done(failed);
}

static PyObject *score_exactly(PyObject *self, PyObject *args) { return attend_exactly(args, 0); }

static PyObject *weigh_exactly(PyObject *self, PyObject *args) { return attend_exactly(args, 1); }

static PyObject *attend_rows(PyObject *self, PyObject *args)
{
    unsigned long long at[4];
    long n_windows, n_rows, n_heads, dim, stride, n_keep;
    int n_threads, failed = 0;
    if (!PyArg_ParseTuple(args, "KKKKlllllli", at, at + 1, at + 2, at + 3, &n_windows, &n_rows, &n_heads, &dim, &stride,
                          &n_keep, &n_threads))
        return NULL;
    const struct attention job = {n_rows, n_heads, dim, stride, n_keep};
    const float *query = ADDRESS(at[0]), *key = ADDRESS(at[1]), *value = ADDRESS(at[2]);
    float *result = ADDRESS(at[3]);
    const struct variant *best = VARIANTS + chosen;
    const long wide = 2 * best->lanes, n_panels = (n_rows + wide - 1) / wide, n_all = n_windows * n_heads;
    Py_BEGIN_ALLOW_THREADS
    float *turned = make_space(n_all * dim * n_rows);
    if (turned) {
#pragma omp parallel num_threads(n_threads)
        {
            void *space = make_space((2 * dim + n_rows) * wide);
            if (!space) {
#pragma omp atomic write
                failed = 1;
            }
#pragma omp for schedule(static)
            for (long i = 0; i < n_all; i++)
                best->turn_values(&job, value + i / n_heads * n_rows * stride + i % n_heads * dim,
                                  turned + i * dim * n_rows);
#pragma omp for schedule(dynamic)
            for (long i = 0; i < n_all * n_panels; i++) {
                const long head = i / n_panels, first = i % n_panels * wide;
                const long window = head / n_heads * n_rows, column = head % n_heads * dim;
                if (space)
                    best->attend_rows(&job, query + (window + first) * stride + column, key + window * stride + column,
                                      turned + head * dim * n_rows, first,
                                      result + (window + first) * n_heads * dim + column, space);
            }
            free(space);
        }
    } else {
        failed = 1;
    }
    free(turned);
    Py_END_ALLOW_THREADS
    return done(failed);
}

static PyObject *use(PyObject *self, PyObject *args)
{
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    for (int i = 0; i < n_usable(); i++)
        if (!strcmp(VARIANTS[i].name, name)) {
            chosen = i;
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "no kernels %s here; see variants()", name);
}

static PyObject *variants(PyObject *self, PyObject *unused)
{
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < n_usable(); i++) {
        PyObject *name = PyUnicode_FromString(VARIANTS[i].name);
        if (!name || PyList_Append(list, name))
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyMethodDef METHODS[] = {
    {"mix_tokens", mix_tokens, METH_VARARGS,
     "mix_tokens(tokens, result, place, qkv, proj, proj_bias, norm, norm_bias, cells, length, size, heads, threads)"},
    {"transform_tokens", transform_tokens, METH_VARARGS,
     "transform_tokens(tokens, result, w1, b1, w2, b2, norm, norm_bias, tokens, size, hidden, threads)"},
    {"draw_counts", draw_counts, METH_VARARGS,
     "draw_counts(mean, dispersion, counts, keys, window, rows, genes, threads) -> values left as -1"},
    {"expect_log", expect_log, METH_VARARGS, "expect_log(mean, dispersion, scale, result, rows, genes, threads)"},
    {"lower_median", lower_median, METH_VARARGS, "lower_median(raw, result, windows, rows, genes, threads)"},
    {"multiply", multiply, METH_VARARGS,
     "multiply(cells, weight, bias or 0, result, cells, outputs, inputs, stride of weight, threads)"},
    {"score_exactly", score_exactly, METH_VARARGS,
     "score_exactly(qkv, scores, 0, cells, length, size, heads, threads): scaled products of queries and keys"},
    {"weigh_exactly", weigh_exactly, METH_VARARGS,
     "weigh_exactly(qkv, shares, result, cells, length, size, heads, threads): values weighted by shares"},
    {"attend_rows", attend_rows, METH_VARARGS,
     "attend_rows(query, key, value, result, windows, rows, heads, dim, stride of rows, rows that see only each other, "
     "threads)"},
    {"use", use, METH_VARARGS, "use(variant): compute with these kernels from now on"},
    {"variants", variants, METH_NOARGS, "variants() -> names of the kernels this processor can run, best last"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    chosen = n_usable() - 1;
    PyObject *module = PyModule_Create(&MODULE);
    if (module && PyModule_AddIntConstant(module, "VERSION", VERSION))
        Py_CLEAR(module);
    return module;
}
