/* A Llama's layers, and matrix products with weights in blocks of 4 or 8 bits.

   What is multiplied with them is rounded to 16 bits, each 32 numbers with a scale of their own:
   products of small integers are exact, and two to a number of float32 in the CPU's registers. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined __AVX2__ && defined __F16C__
#include <immintrin.h>
#elif defined __x86_64__
#error "slower than PyTorch without AVX2"
#endif

/* Numbers of a register. */
#if defined __AVX512BW__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif

/* Weights of a block, outputs of a group, vectors whose sums fit into all registers, and at most. */
enum { BLOCK = 32, GROUP = 32, AT_ONCE = 6, MANY = 128 };

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t sums __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int16_t shorts __attribute__((vector_size(4 * LANES), aligned(2)));

/* ggml's Q4_1, scale * value + least, and Q8_0, scale * value, of one block of GROUP outputs. The
   weights of an output are two by two beside those of the next: in bits 4 * j of `fours[i]`, weights
   8 * i + 2 * j and the next; in byte j of `pairs[i]`, weights 4 * i + 2 * j and the next. */
typedef struct { _Float16 scale[GROUP], least[GROUP]; int16_t fours[4][2 * GROUP]; } Q4_1;
typedef struct { _Float16 scale[GROUP]; int16_t pairs[8][2 * GROUP]; } Q8_0;

/* A matrix (out, in), and an adapter (LoRA): `down` (in, rank), `up` (rank, out). */
typedef struct {
    int64_t bits, out, rank;
    const void *weight;
    const float *down, *up;
} Part;

/* Matrices that read the same vector, side by side. */
typedef struct { int64_t in, out, rank, count; const Part *parts; } Linear;

typedef struct { Linear query_key_value, project, gate_up, down; const float *norm[2]; } Layer;

typedef struct { int64_t layers, heads, kv_heads, width, hidden; float eps; const Layer *layer; } Model;

/* New tokens of a row behind `length` others, and its keys (layers, kv_heads, width, room) and values
   (layers, kv_heads, room, width); rooms are multiples of BLOCK and hold zeros at first. */
typedef struct { int64_t count, length, room; float *keys, *values; } Row;

/* BLOCK numbers of a vector: scale * value, and their sum. */
typedef struct { int16_t value[BLOCK]; float scale, sum; } Rounded;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void rounded(Rounded *to, const float *x) {
    int32_t bits[BLOCK], most = 0;
    memcpy(bits, x, sizeof bits);
    /* Sizes are in the order of their bits, and what is not a number is above all that are. */
    for (int i = 0; i < BLOCK; i++) bits[i] &= INT32_MAX, most = most < bits[i] ? bits[i] : most;
    float size, sum = 0;
    memcpy(&size, &most, sizeof size);
    to->scale = size / INT16_MAX;
    float by = size > 0 ? INT16_MAX / size : 0;
    for (int i = 0; i < BLOCK; i++) {
        sum += x[i];
        to->value[i] = (int32_t)rintf(x[i] * by);
    }
    to->sum = sum;
}

static inline floats widened(const _Float16 *p) {
#if defined __AVX512BW__
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined __AVX2__
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    floats v;
    for (int i = 0; i < LANES; i++) v[i] = p[i];
    return v;
#endif
}

/* The sums, each with the two products of its pair of weights and one of numbers. */
static inline sums add_pairs(sums sum, shorts weights, int32_t pair) {
#if defined __AVX512VNNI__ && defined __AVX512BW__
    return (sums)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(pair));
#elif defined __AVX512BW__
    return sum + (sums)_mm512_madd_epi16((__m512i)weights, _mm512_set1_epi32(pair));
#elif defined __AVX2__
    return sum + (sums)_mm256_madd_epi16((__m256i)weights, _mm256_set1_epi32(pair));
#else
    sums both = (sums)weights;
    return sum + (both << 16 >> 16) * (int16_t)pair + (both >> 16) * (pair >> 16);
#endif
}

/* The products of one block of 2 * LANES outputs, from the given one on, with so many vectors, added
   to y (count, GROUP). */
static inline __attribute__((always_inline)) void tile(float *y, const void *weight, int64_t out,
                                                       const Rounded *x, int bits, int count) {
    const _Float16 *scale = weight;
    const int16_t *packed = (const int16_t *)(scale + (bits == 4 ? 2 * GROUP : GROUP)) + 2 * out;
    sums sum[AT_ONCE][2] = {0};
    for (int i = 0; i < bits; i++) {
        shorts raw[2] = {*(const shorts *)(packed + 2 * GROUP * i),
                         *(const shorts *)(packed + 2 * GROUP * i + 2 * LANES)};
        for (int j = 0; j < 16 / bits; j++) {
            shorts w[2];
            for (int v = 0; v < 2; v++)
                w[v] = bits == 4 ? (raw[v] >> 4 * j) & 15 : (raw[v] << 8 * (1 - j)) >> 8;
            for (int m = 0; m < count; m++) {
                int32_t pair;
                memcpy(&pair, x[m].value + 2 * (16 / bits * i + j), sizeof pair);
                for (int v = 0; v < 2; v++) sum[m][v] = add_pairs(sum[m][v], w[v], pair);
            }
        }
    }
    for (int v = 0; v < 2; v++) {
        floats by = widened(scale + out + LANES * v), low = {0};
        if (bits == 4) low = widened(scale + GROUP + out + LANES * v);
        for (int m = 0; m < count; m++) {
            floats *to = (floats *)(y + GROUP * m + out + LANES * v);
            *to += __builtin_convertvector(sum[m][v], floats) * (by * x[m].scale) + low * x[m].sum;
        }
    }
}

/* LANES columns of the product of x (count, n) and w (n, wide) -> y, its rows `stride` apart; each in
   so many sums that do not wait for one another. */
static inline __attribute__((always_inline)) void multiply(float *y, int64_t stride, const float *x,
                                                           const float *w, int64_t n, int64_t wide,
                                                           int count, int apart) {
    floats sum[AT_ONCE] = {0};
    for (int64_t i = 0; i < n; i += apart)
        for (int a = 0; a < apart; a++)
            for (int m = 0; m < count; m++)
                sum[m + a] += *(const floats *)(w + (i + a) * wide) * x[m * n + i + a];
    for (int a = 1; a < apart; a++) sum[0] += sum[a];
    for (int m = 0; m < count; m++) *(floats *)(y + m * stride) = sum[m];
}

/* The first columns, a multiple of LANES, of the product of x (rows, n) and w (n, wide), n a multiple
   of 4 -> y, its rows `stride` apart. */
static void product(float *y, int64_t stride, const float *x, int64_t rows, const float *w, int64_t n,
                    int64_t wide, int64_t columns) {
    for (int64_t c = 0; c < columns; c += LANES) {
        int64_t m = 0;
        for (; m + AT_ONCE <= rows; m += AT_ONCE)
            multiply(y + m * stride + c, stride, x + m * n, w + c, n, wide, AT_ONCE, 1);
        for (; m < rows; m++) multiply(y + m * stride + c, stride, x + m * n, w + c, n, wide, 1, 4);
    }
}

/* A block of GROUP outputs with all vectors, added to y (rows, GROUP). */
static inline __attribute__((always_inline)) void block(float *y, const void *weight,
                                                        const Rounded *x, int64_t rows, int bits) {
    for (int64_t out = 0; out < GROUP; out += 2 * LANES)
        for (int64_t m = 0; m < rows; m += AT_ONCE) {
            float *to = y + GROUP * m;
            switch (rows - m) {
            case 1: tile(to, weight, out, x + m, bits, 1); break;
            case 2: tile(to, weight, out, x + m, bits, 2); break;
            case 3: tile(to, weight, out, x + m, bits, 3); break;
            case 4: tile(to, weight, out, x + m, bits, 4); break;
            case 5: tile(to, weight, out, x + m, bits, 5); break;
            default: tile(to, weight, out, x + m, bits, AT_ONCE);
            }
        }
}

/* At most MANY vectors x (rows, in) -> y (rows, out). */
static void of_few(float *y, const float *x, int64_t rows, const Linear *layer) {
    int64_t in = layer->in, out = layer->out, blocks = in / BLOCK;
    Rounded *numbers = malloc(blocks * rows * sizeof *numbers);
    float *low = malloc((rows * layer->rank + 1) * sizeof *low);
#pragma omp parallel
    {
        float sum[rows * GROUP], *to = y, *inner = low;
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < blocks * rows; i++)
            rounded(numbers + i, x + i % rows * in + i / rows * BLOCK);
        for (int64_t n = 0; n < layer->count; inner += rows * layer->parts[n++].rank) {
            const Part *part = layer->parts + n;
#pragma omp for schedule(static) nowait
            for (int64_t m = 0; m < rows; m += AT_ONCE)
                product(inner + m * part->rank, part->rank, x + m * in, least(AT_ONCE, rows - m),
                        part->down, in, part->rank, part->rank);
        }
#pragma omp barrier
        inner = low;
        for (int64_t n = 0; n < layer->count; n++) {
            const Part *part = layer->parts + n;
#pragma omp for schedule(static) nowait
            for (int64_t o = 0; o < part->out; o += GROUP) {
                product(sum, GROUP, inner, rows, part->up + o, part->rank, part->out, GROUP);
                for (int64_t b = 0; b < blocks; b++) {
                    int64_t which = o / GROUP * blocks + b;
                    if (part->bits == 4)
                        block(sum, (const Q4_1 *)part->weight + which, numbers + b * rows, rows, 4);
                    else
                        block(sum, (const Q8_0 *)part->weight + which, numbers + b * rows, rows, 8);
                }
                for (int64_t m = 0; m < rows; m++)
                    memcpy(to + m * out + o, sum + m * GROUP, GROUP * sizeof(float));
            }
            to += part->out;
            inner += rows * part->rank;
        }
    }
    free(numbers);
    free(low);
}

/* Vectors x (rows, in) -> y (rows, out). */
void linear(float *y, const float *x, int64_t rows, const Linear *layer) {
    for (; rows > 0; rows -= MANY, x += MANY * layer->in, y += MANY * layer->out)
        of_few(y, x, least(MANY, rows), layer);
}

static void normed(float *y, const float *x, const float *weight, int64_t n, float eps) {
    float squares = 0;
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    float scale = 1 / sqrtf(squares / n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale * weight[i];
}

/* The exponential, in a form that compilers make vectors of: a power of two and a series. */
static inline float exponential(float x) {
    x = x < -87 ? -87 : x > 88 ? 88 : x;
    float whole = rintf(x * 1.44269504f), power;
    float r = x - whole * 0.693147181f;
    int32_t bits = ((int32_t)whole + 127) << 23;
    memcpy(&power, &bits, sizeof power);
    float series = 1 / 5040.f;
    series = series * r + 1 / 720.f;
    series = series * r + 1 / 120.f;
    series = series * r + 1 / 24.f;
    series = series * r + 1 / 6.f;
    series = series * r + 1 / 2.f;
    return power * (series * r * r + r + 1);
}

/* Turns a token's queries and keys, scales the queries, and puts keys and values to those of its row,
   at the given position. */
static void place(float *mixed, const float *turn, const Model *model, const Row *row, int64_t layer,
                  int64_t position) {
    int64_t kv = model->kv_heads, width = model->width, queries = model->heads * width;
    for (int64_t h = 0; h < model->heads + kv; h++)
        for (int64_t i = 0; i < width; i += 2) {
            float *pair = mixed + h * width + i, a = pair[0], b = pair[1];
            pair[0] = a * turn[i] - b * turn[i + 1], pair[1] = a * turn[i + 1] + b * turn[i];
        }
    float scale = 1 / sqrtf(width);
    for (int64_t i = 0; i < queries; i++) mixed[i] *= scale;
    int64_t from = layer * kv * width * row->room;
    for (int64_t i = 0; i < kv * width; i++)
        row->keys[from + i * row->room + position] = mixed[queries + i];
    for (int64_t h = 0; h < kv; h++)
        memcpy(row->values + from + (h * row->room + position) * width,
               mixed + queries + (kv + h) * width, width * sizeof(float));
}

/* What tokens of a row, the first at the given position, see with the query heads (count, .., width)
   that share a head of keys and values -> y; the numbers of a token are `apart` from the next's. */
static void attend(float *y, int64_t apart, const float *mixed, int64_t mixing, int64_t count,
                   const Model *model, const Row *row, int64_t layer, int64_t head,
                   int64_t position) {
    int64_t shared = model->heads / model->kv_heads, width = model->width, size = shared * width;
    int64_t from = (layer * model->kv_heads + head) * width * row->room;
    int64_t length = (position + count + LANES - 1) / LANES * LANES;
    float query[count * size], seen[count * size];
    float *weights = malloc(count * shared * length * sizeof *weights);
    for (int64_t m = 0; m < count; m++)
        memcpy(query + m * size, mixed + m * mixing + head * size, size * sizeof(float));
    product(weights, length, query, count * shared, row->keys + from, width, row->room, length);
    for (int64_t m = 0; m < count * shared; m++) {
        float *of = weights + m * length, most = -FLT_MAX, sum = 0;
        int64_t end = position + m / shared + 1;
        for (int64_t t = 0; t < end; t++) most = most < of[t] ? of[t] : most;
        for (int64_t t = 0; t < end; t++) sum += of[t] = exponential(of[t] - most);
        for (int64_t t = 0; t < end; t++) of[t] /= sum;
        memset(of + end, 0, (length - end) * sizeof(float));
    }
    product(seen, width, weights, count * shared, row->values + from, length, width, width);
    free(weights);
    for (int64_t m = 0; m < count; m++)
        memcpy(y + m * apart + head * size, seen + m * size, size * sizeof(float));
}

/* At most MANY tokens (total, hidden) of rows one after the other through all layers. */
static void all_layers(float *hidden, const float *turn, int64_t total, const Row *rows,
                    const Model *model) {
    int64_t n = model->hidden, seeing = model->heads * model->width;
    int64_t mixing = seeing + 2 * model->kv_heads * model->width;
    int64_t inner = model->layer->gate_up.out / 2, first[MANY];
    const Row *of[MANY];
    for (int64_t m = 0, begin = 0; m < total; begin += rows++->count)
        for (int64_t i = 0; i < rows->count; i++) first[m] = begin, of[m++] = rows;
    float *x = malloc(total * (n + mixing + seeing + 3 * inner) * sizeof *x);
    float *mixed = x + total * n, *seen = mixed + total * mixing, *wide = seen + total * seeing;
    float *gated = wide + total * 2 * inner;
    for (int64_t l = 0; l < model->layers; l++) {
        const Layer *layer = model->layer + l;
        for (int64_t m = 0; m < total; m++)
            normed(x + m * n, hidden + m * n, layer->norm[0], n, model->eps);
        linear(mixed, x, total, &layer->query_key_value);
#pragma omp parallel if (total > 1 || of[0]->length > MANY)
        {
#pragma omp for schedule(static)
            for (int64_t m = 0; m < total; m++)
                place(mixed + m * mixing, turn + m * model->width, model, of[m], l,
                      of[m]->length + m - first[m]);
#pragma omp for schedule(dynamic) collapse(2)
            for (int64_t m = 0; m < total; m++)
                for (int64_t h = 0; h < model->kv_heads; h++)
                    if ((m - first[m]) % AT_ONCE == 0)
                        attend(seen + m * seeing, seeing, mixed + m * mixing, mixing,
                               least(AT_ONCE, first[m] + of[m]->count - m), model, of[m], l, h,
                               of[m]->length + m - first[m]);
        }
        linear(x, seen, total, &layer->project);
        for (int64_t i = 0; i < total * n; i++) hidden[i] += x[i];
        for (int64_t m = 0; m < total; m++)
            normed(x + m * n, hidden + m * n, layer->norm[1], n, model->eps);
        linear(wide, x, total, &layer->gate_up);
#pragma omp parallel for schedule(static) if (total > 1)
        for (int64_t m = 0; m < total; m++) {
            const float *gate = wide + m * 2 * inner, *up = gate + inner;
            for (int64_t i = 0; i < inner; i++)
                gated[m * inner + i] = gate[i] * up[i] / (1 + exponential(-gate[i]));
        }
        linear(x, gated, total, &layer->down);
        for (int64_t i = 0; i < total * n; i++) hidden[i] += x[i];
    }
    free(x);
}

/* Tokens of so many rows one after the other, `hidden` (tokens, hidden) and changed in place, behind
   what their rows have; `turn` (tokens, width) are cosine and sine for each pair of a head. */
void forward(float *hidden, const float *turn, const Row *row, int64_t rows, const Model *model) {
    Row part[MANY];
    int64_t total = 0, parts = 0, r = 0, done = 0;
    while (r < rows || total) {
        if (r == rows || total == MANY) {
            all_layers(hidden, turn, total, part, model);
            hidden += total * model->hidden;
            turn += total * model->width;
            total = parts = 0;
        } else if (done == row[r].count) {
            r++, done = 0;
        } else {
            int64_t count = least(row[r].count - done, MANY - total);
            part[parts] = row[r];
            part[parts].length += done;
            part[parts++].count = count;
            total += count, done += count;
        }
    }
}
