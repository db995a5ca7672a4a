/* Matrix products with weights in ggml's blocks, as GGUF files have them, and one step of decoding.

   Weights are widened to float32 in registers, and all arithmetic is float32: the numbers are those
   of dequantised weights, for a fifth of the bytes, which is what decoding waits for. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { BLOCK = 32, LANES = 8, AT_ONCE = 4 };

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));

/* ggml's Q4_1: 32 weights, scale * value + least; values 0..15 and 16..31 share bytes. */
typedef struct { _Float16 scale, least; uint8_t pairs[BLOCK / 2]; } Q4_1;
/* ggml's Q8_0: 32 weights, scale * value. */
typedef struct { _Float16 scale; int8_t values[BLOCK]; } Q8_0;

/* Rows of a matrix (out, in), and of an adapter (LoRA): `down` (rank, in), `up` (out, rank). */
typedef struct {
    int64_t bits, out, rank;
    const void *weight;
    const float *down, *up;
} Part;

/* Matrices that read the same vector, side by side. */
typedef struct { int64_t in, out, rank, count; const Part *parts; } Linear;

typedef struct { Linear query_key_value, project, gate_up, down; const float *norm[2]; } Layer;

typedef struct { int64_t layers, heads, kv_heads, width, hidden; float eps; const Layer *layer; } Model;

static inline vec at(const float *p) { return *(const vec *)p; }

static inline float total(vec v) {
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    return v[0] + v[1];
}

#ifdef __AVX2__
#include <immintrin.h>

static inline vec widened(__m256i v) { return (vec)_mm256_cvtepi32_ps(v); }

static inline void unpack4(const uint8_t *p, vec v[4]) {
    __m128i both = _mm_loadu_si128((const __m128i *)p), mask = _mm_set1_epi8(15);
    __m128i low = _mm_and_si128(both, mask), high = _mm_and_si128(_mm_srli_epi16(both, 4), mask);
    v[0] = widened(_mm256_cvtepu8_epi32(low));
    v[1] = widened(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(low, low)));
    v[2] = widened(_mm256_cvtepu8_epi32(high));
    v[3] = widened(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(high, high)));
}

static inline void unpack8(const int8_t *p, vec v[4]) {
    for (int i = 0; i < 4; i++)
        v[i] = widened(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + LANES * i))));
}
#else
static inline void unpack4(const uint8_t *p, vec v[4]) {
    for (int i = 0; i < BLOCK / 2; i++) {
        v[i / LANES][i % LANES] = p[i] & 15;
        v[2 + i / LANES][i % LANES] = p[i] >> 4;
    }
}

static inline void unpack8(const int8_t *p, vec v[4]) {
    for (int i = 0; i < BLOCK; i++) v[i / LANES][i % LANES] = p[i];
}
#endif

/* One block of a row: its values, and what they are scaled by and added to. */
static inline float unpack(const Part *part, int64_t block, vec v[4], float *least) {
    if (part->bits == 4) {
        const Q4_1 *w = (const Q4_1 *)part->weight + block;
        unpack4(w->pairs, v);
        *least = w->least;
        return w->scale;
    }
    const Q8_0 *w = (const Q8_0 *)part->weight + block;
    unpack8(w->values, v);
    *least = 0;
    return w->scale;
}

static void widen(float *restrict y, const Part *part, int64_t row, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++) {
        vec v[4];
        float least, scale = unpack(part, row * blocks + b, v, &least);
        for (int i = 0; i < 4; i++) *(vec *)(y + BLOCK * b + LANES * i) = v[i] * scale + least;
    }
}

/* A row times one vector, of which `sums` has the sum of each block. */
static float product(const Part *part, int64_t row, const float *x, const float *sums,
                     int64_t blocks) {
    vec sum = {0};
    float rest = 0;
    for (int64_t b = 0; b < blocks; b++, x += BLOCK) {
        vec v[4];
        float least, scale = unpack(part, row * blocks + b, v, &least);
        sum += (v[0] * at(x) + v[1] * at(x + 8) + (v[2] * at(x + 16) + v[3] * at(x + 24))) * scale;
        rest += least * sums[b];
    }
    return rest + total(sum);
}

/* Four rows (4, in) times three vectors (3, in) -> y (3, 4): what fits into 16 registers. */
static void tile(float *y, const float *w, const float *x, int64_t in) {
    vec a0 = {0}, a1 = {0}, a2 = {0}, b0 = {0}, b1 = {0}, b2 = {0};
    vec c0 = {0}, c1 = {0}, c2 = {0}, d0 = {0}, d1 = {0}, d2 = {0};
    for (int64_t i = 0; i < in; i += LANES) {
        vec x0 = at(x + i), x1 = at(x + in + i), x2 = at(x + 2 * in + i), v;
        v = at(w + i), a0 += v * x0, a1 += v * x1, a2 += v * x2;
        v = at(w + in + i), b0 += v * x0, b1 += v * x1, b2 += v * x2;
        v = at(w + 2 * in + i), c0 += v * x0, c1 += v * x1, c2 += v * x2;
        v = at(w + 3 * in + i), d0 += v * x0, d1 += v * x1, d2 += v * x2;
    }
    y[0] = total(a0), y[1] = total(b0), y[2] = total(c0), y[3] = total(d0);
    y[4] = total(a1), y[5] = total(b1), y[6] = total(c1), y[7] = total(d1);
    y[8] = total(a2), y[9] = total(b2), y[10] = total(c2), y[11] = total(d2);
}

static float dot(const float *a, const float *b, int64_t n) {
    vec even = {0}, odd = {0};
    int64_t i = 0;
    for (; i + LANES < n; i += 2 * LANES) {
        even += at(a + i) * at(b + i);
        odd += at(a + i + LANES) * at(b + i + LANES);
    }
    return total(i < n ? even + odd + at(a + i) * at(b + i) : even + odd);
}

/* Four rows (4, in) times all vectors (rows, in), added to y. */
static void product4(float *y, int64_t stride, const float *w, const float *x, int64_t rows,
                     int64_t in) {
    if (rows < 3) {
        for (int64_t m = 0; m < rows; m++)
            for (int r = 0; r < AT_ONCE; r++) y[m * stride + r] += dot(w + r * in, x + m * in, in);
        return;
    }
    for (int64_t m = 0; m < rows; m += 3) {
        /* The last three overlap those before, where three do not divide the rows. */
        int64_t first = m + 3 <= rows ? m : rows - 3;
        float sums[3 * AT_ONCE];
        tile(sums, w, x + first * in, in);
        for (int64_t c = m - first; c < 3; c++)
            for (int r = 0; r < AT_ONCE; r++)
                y[(first + c) * stride + r] += sums[c * AT_ONCE + r];
    }
}

/* Vectors x (rows, in) -> y (rows, out). */
void linear(float *y, const float *x, int64_t rows, const Linear *layer) {
    int64_t in = layer->in, out = layer->out, blocks = in / BLOCK;
    float low[rows * layer->rank + 1];
    memset(low, 0, sizeof low);
#pragma omp parallel
    {
        float wide[AT_ONCE * in], sums[blocks], *to = y, *inner = low;
        if (rows == 1)
            for (int64_t b = 0; b < blocks; b++) {
                vec s = (at(x + BLOCK * b) + at(x + BLOCK * b + 8)) +
                        (at(x + BLOCK * b + 16) + at(x + BLOCK * b + 24));
                sums[b] = total(s);
            }
        for (int64_t n = 0; n < layer->count; inner += rows * layer->parts[n++].rank) {
            const Part *part = layer->parts + n;
#pragma omp for schedule(static) nowait
            for (int64_t r = 0; r < part->rank; r += AT_ONCE)
                product4(inner + r, part->rank, part->down + r * in, x, rows, in);
        }
        if (layer->rank) {
#pragma omp barrier
        }
        inner = low;
        for (int64_t n = 0; n < layer->count; n++) {
            const Part *part = layer->parts + n;
#pragma omp for schedule(static) nowait
            for (int64_t o = 0; o < part->out; o += AT_ONCE) {
                for (int64_t m = 0; m < rows; m++)
                    for (int r = 0; r < AT_ONCE; r++) to[m * out + o + r] = 0;
                if (rows == 1) {
                    for (int r = 0; r < AT_ONCE; r++)
                        to[o + r] = product(part, o + r, x, sums, blocks);
                } else {
                    for (int r = 0; r < AT_ONCE; r++) widen(wide + r * in, part, o + r, blocks);
                    product4(to + o, out, wide, x, rows, in);
                }
                if (part->rank)
                    product4(to + o, out, part->up + o * part->rank, inner, rows, part->rank);
            }
            to += part->out;
            inner += rows * part->rank;
        }
    }
}

/* The weights (out, in), adapters left out. */
void dense(float *weight, const Linear *layer) {
    for (int64_t n = 0; n < layer->count; n++) {
        const Part *part = layer->parts + n;
#pragma omp parallel for schedule(static)
        for (int64_t o = 0; o < part->out; o++)
            widen(weight + o * layer->in, part, o, layer->in / BLOCK);
        weight += part->out * layer->in;
    }
}

static void normed(float *y, const float *x, const float *weight, int64_t n, float eps) {
    float scale = 1 / sqrtf(dot(x, x, n) / n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale * weight[i];
}

/* One head's query over the keys and values of `length` positions, `stride` numbers apart. */
static void attend(float *y, const float *query, const float *keys, const float *values,
                   int64_t length, int64_t stride, int64_t width) {
    float weights[length], most = -FLT_MAX, sum = 0;
    for (int64_t t = 0; t < length; t++) {
        weights[t] = dot(query, keys + t * stride, width);
        most = fmaxf(most, weights[t]);
    }
    for (int64_t t = 0; t < length; t++) sum += weights[t] = expf(weights[t] - most);
    memset(y, 0, width * sizeof(float));
    for (int64_t t = 0; t < length; t++)
        for (int64_t i = 0; i < width; i++) y[i] += weights[t] / sum * values[t * stride + i];
}

/* One token through all layers: `hidden` (hidden) is changed in place; `turn` (width) are cosine and
   sine of each pair; `cache` has for each layer, `apart` numbers from the next, keys and values
   (length + 1, 2 * kv_heads, width), room for this token's among them. */
void step(float *hidden, const Model *model, const float *turn, float *cache, int64_t apart,
          int64_t length) {
    int64_t heads = model->heads, kv = model->kv_heads, width = model->width, n = model->hidden;
    int64_t turned = (heads + kv) * width, stride = 2 * kv * width;
    int64_t inner = model->layer->gate_up.out / 2;
    float x[n], y[n], mixed[turned + kv * width], seen[heads * width], wide[2 * inner];
    for (int64_t l = 0; l < model->layers; l++) {
        const Layer *layer = model->layer + l;
        float *past = cache + l * apart;
        normed(x, hidden, layer->norm[0], n, model->eps);
        linear(mixed, x, 1, &layer->query_key_value);
        for (int64_t i = 0; i < turned; i += 2) {
            float a = mixed[i], b = mixed[i + 1], c = turn[i % width], s = turn[i % width + 1];
            mixed[i] = a * c - b * s, mixed[i + 1] = a * s + b * c;
        }
        for (int64_t i = 0; i < heads * width; i++) mixed[i] /= sqrtf(width);
        memcpy(past + length * stride, mixed + heads * width, stride * sizeof(float));
#pragma omp parallel for schedule(static) if (length > 128)
        for (int64_t h = 0; h < heads; h++) {
            const float *keys = past + h / (heads / kv) * width;
            attend(seen + h * width, mixed + h * width, keys, keys + kv * width, length + 1, stride,
                   width);
        }
        linear(y, seen, 1, &layer->project);
        for (int64_t i = 0; i < n; i++) hidden[i] += y[i];
        normed(x, hidden, layer->norm[1], n, model->eps);
        linear(wide, x, 1, &layer->gate_up);
        for (int64_t i = 0; i < inner; i++) wide[i] *= wide[inner + i] / (1 + expf(-wide[i]));
        linear(y, wide, 1, &layer->down);
        for (int64_t i = 0; i < n; i++) hidden[i] += y[i];
    }
}
