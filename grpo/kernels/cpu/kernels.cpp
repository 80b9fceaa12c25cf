// One step of decoding on a CPU: attention of one query a row over its prompt and its own tokens, and the sampler.
//
// Plain C functions over fp32 arrays; ops.py calls them and says what the arrays are. Every row is
// computed in an order of its own (blocks of 64 keys from its prompt's first, lanes as many as a register holds), so
// that its bits depend on the processor's registers, but not on its neighbours, nor on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <omp.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int BLOCK = 64, MAX_QUERIES = 64, MAX_WIDTH = 256;
// A register's floats, and the queries that meet four keys at a time: 4 x TILE sums, 4 keys and a query fit the 32
// registers of AVX-512 or the 16 of AVX2. Longer vectors than the registers are slow: the compiler keeps them in memory.
#ifdef __AVX512F__
constexpr int LANES = 16, TILE = 4;
#else
constexpr int LANES = 8, TILE = 2;
#endif
static_assert(LANES == 4 * TILE, "the sums of a tile fill one register");
constexpr float INF = std::numeric_limits<float>::infinity();
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef double Doubles __attribute__((vector_size(8 * LANES)));

#if defined(__clang__) || __GNUC__ >= 12
#define PICK __builtin_shufflevector
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#endif

template <class T> inline T load(const void* from) {
    T x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
template <class T> inline void store(void* to, T x) { std::memcpy(to, &x, sizeof x); }
template <class To, class From> inline To same_bits(From x) { return load<To>(&x); }
// `x` in a register: the compiler would reload it for every use.
inline Vec in_register(Vec x) {
#ifdef __AVX512F__
    asm("" : "+v"(x));
#elif defined(__AVX2__)
    asm("" : "+x"(x));
#endif
    return x;
}
inline Vec all(float x) { return x - Vec{}; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline bool any(Ints x) {
#ifdef __AVX512F__
    return _mm512_test_epi32_mask((__m512i)x, (__m512i)x) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)x, (__m256i)x);
#else
    int32_t lane[LANES], bits = 0;
    store(lane, x);
    for (int32_t y : lane) bits |= y;
    return bits != 0;
#endif
}
#ifdef __AVX512F__
const Ints COUNT = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
const Ints COUNT = {0, 1, 2, 3, 4, 5, 6, 7};
#endif

// exp(x) for x <= 0 to 1e-7 relative; 0 below -87.
inline Vec exp_of(Vec x) {
    const Ints none = x < -87.0f;
    x = none ? all(-87.0f) : x;
    const Vec turns = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    x = (x - turns * 0.693359375f) + turns * 2.12194440e-4f;
    Vec y = all(1.9875691500e-4f);
    y = y * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * (x * x) + x + 1.0f;
    const Vec power = same_bits<Vec>((__builtin_convertvector(turns, Ints) + 127) << 23);
    return none ? Vec{} : y * power;
}
inline float exp_of(float x) { return exp_of(all(x))[0]; }

inline float sum_of(Vec x) {
    float lane[LANES];
    store(lane, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}
inline float largest_of(Vec x) {
    float lane[LANES], top = -INF;
    store(lane, x);
    for (float y : lane) top = y > top ? y : top;
    return top;
}

// The sums of LANES vectors, in order. Each sum adds the same lanes in the same order.
#ifdef __AVX512F__
inline Vec sums_of(const Vec a[LANES]) {
    Vec b[8], c[4], d[2];
    for (int i = 0; i < 8; i++)
        b[i] = PICK(a[2 * i], a[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               PICK(a[2 * i], a[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    for (int i = 0; i < 4; i++)
        c[i] = PICK(b[2 * i], b[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               PICK(b[2 * i], b[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    for (int i = 0; i < 2; i++)
        d[i] = PICK(c[2 * i], c[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
               PICK(c[2 * i], c[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    return PICK(d[0], d[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           PICK(d[0], d[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
#else
inline Vec sums_of(const Vec a[LANES]) {
    Vec b[4], c[2];
    for (int i = 0; i < 4; i++)
        b[i] = PICK(a[2 * i], a[2 * i + 1], 0, 1, 2, 3, 8, 9, 10, 11) +
               PICK(a[2 * i], a[2 * i + 1], 4, 5, 6, 7, 12, 13, 14, 15);
    for (int i = 0; i < 2; i++)
        c[i] = PICK(b[2 * i], b[2 * i + 1], 0, 1, 4, 5, 8, 9, 12, 13) +
               PICK(b[2 * i], b[2 * i + 1], 2, 3, 6, 7, 10, 11, 14, 15);
    return PICK(c[0], c[1], 0, 2, 4, 6, 8, 10, 12, 14) + PICK(c[0], c[1], 1, 3, 5, 7, 9, 11, 13, 15);
}
#endif

// ---- attention ----------------------------------------------------------------------------------------------------

// What some queries have read so far: of each the scaled query, the largest score, the sum of weights, weighted values.
struct Readers {
    float query[MAX_QUERIES * MAX_WIDTH], out[MAX_QUERIES * MAX_WIDTH];
    float top[MAX_QUERIES], total[MAX_QUERIES];
};

// out = out x scale + score x value, in C vectors of each of N queries.
template <int N, int C> inline void add(float* out, int width, const float* scale, const float (*score)[BLOCK],
                                        const float* value, int64_t stride, int count) {
    Vec sum[N][C];
    for (int i = 0; i < N; i++)
        for (int c = 0; c < C; c++) sum[i][c] = load<Vec>(out + i * width + c * LANES) * scale[i];
    for (int j = 0; j < count; j++)
        for (int c = 0; c < C; c++) {
            const Vec v = load<Vec>(value + j * stride + c * LANES);
            for (int i = 0; i < N; i++) sum[i][c] += score[i][j] * v;
        }
    for (int i = 0; i < N; i++)
        for (int c = 0; c < C; c++) store(out + i * width + c * LANES, sum[i][c]);
}

// N queries (at most TILE) meet `count` keys (at most BLOCK; memory for BLOCK), a key `stride` floats from the next.
template <int N> void meet(Readers& readers, int first, int width, const float* key, const float* value, int64_t stride,
                           int count) {
    alignas(64) float score[TILE][BLOCK];
    const float* query = readers.query + first * width;
    for (int j = 0; j < count; j += 4) {
        Vec dot[LANES] = {};
        for (int d = 0; d < width; d += LANES) {
            Vec k[4];
            for (int c = 0; c < 4; c++) k[c] = in_register(load<Vec>(key + (j + c) * stride + d));
            for (int i = 0; i < N; i++) {
                const Vec q = in_register(load<Vec>(query + i * width + d));
                for (int c = 0; c < 4; c++) dot[4 * i + c] += q * k[c];
            }
        }
        alignas(64) float sums[LANES];
        store(sums, sums_of(dot));
        for (int i = 0; i < N; i++) std::memcpy(&score[i][j], sums + 4 * i, 16);
    }
    float scale[TILE];
    for (int i = 0; i < N; i++) {
        Vec most = all(-INF);
        for (int j = 0; j < count; j += LANES) {
            const Vec x = COUNT + j < count ? load<Vec>(&score[i][j]) : all(-INF);
            store(&score[i][j], x);
            most = larger(most, x);
        }
        const float before = readers.top[first + i], top = std::max(before, largest_of(most));
        const float least = top == -INF ? 0.0f : top;  // nothing to read yet: weights of 0, unless NaN
        Vec sum = {};
        for (int j = 0; j < count; j += LANES) {
            const Vec weight = exp_of(load<Vec>(&score[i][j]) - least);
            store(&score[i][j], weight);
            sum += weight;
        }
        scale[i] = before == top ? 1.0f : exp_of(before - least);
        readers.top[first + i] = top;
        readers.total[first + i] = readers.total[first + i] * scale[i] + sum_of(sum);
    }
    int d = 0;
    for (; d + 4 * LANES <= width; d += 4 * LANES)
        add<N, 4>(readers.out + first * width + d, width, scale, score, value + d, stride, count);
    for (; d < width; d += LANES) add<N, 1>(readers.out + first * width + d, width, scale, score, value + d, stride, count);
}

// Queries first .. first + num meet `count` keys, tile by tile.
void read(Readers& readers, int first, int num, int width, const float* key, const float* value, int64_t stride,
          int64_t count) {
    for (int64_t j = 0; j < count; j += BLOCK) {
        const int keys = (int)std::min<int64_t>(BLOCK, count - j);
        const float *k = key + j * stride, *v = value + j * stride;
        int i = 0;
        for (; i + TILE <= num; i += TILE) meet<TILE>(readers, first + i, width, k, v, stride, keys);
        const int left = num - i;  // fewer than TILE
        if constexpr (TILE > 2) {
            if (left == 3) meet<3>(readers, first + i, width, k, v, stride, keys);
            if (left == 2) meet<2>(readers, first + i, width, k, v, stride, keys);
        }
        if (left == 1) meet<1>(readers, first + i, width, k, v, stride, keys);
    }
}

}  // namespace

extern "C" {

int64_t attention_work_bytes() { return sizeof(Readers); }

// Whether the registers are those that this is written for; otherwise torch's attention is faster.
int attention_is_fast() {
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
    return 1;
#else
    return 0;
#endif
}

// query, out [rows, heads, width]; new_key, new_value [rows, kv_heads, width]. Bucket b is keys[b], values[b], each
// [entries, widths[b], kv_heads, width]. rows[r] = (bucket, entry, tokens before the new one). A task is a run of
// `members` that read one prompt: tasks[t] = (first, number, bucket or -1, entry, tokens of the prompt), at most 64
// queries of one key head. work: threads x attention_work_bytes(), best aligned to 64.
void decode_attention(const float* query, const float* new_key, const float* new_value, float* out, float** keys,
                      float** values, const int64_t* widths, const int64_t* rows, const int64_t* tasks,
                      const int64_t* members, int64_t num_tasks, int64_t heads, int64_t kv_heads, int64_t width,
                      float scaling, void* work, int threads) {
    const int64_t repeats = heads / kv_heads, stride = kv_heads * width;
#pragma omp parallel for schedule(dynamic) collapse(2) num_threads(threads)
    for (int64_t t = 0; t < num_tasks; t++)
        for (int64_t h = 0; h < kv_heads; h++) {
            Readers& readers = static_cast<Readers*>(work)[omp_get_thread_num()];
            const int64_t *task = tasks + 5 * t, number = task[1], bucket = task[2];
            const int64_t* member = members + task[0];
            const int num = (int)(number * repeats), filled = (num + TILE - 1) / TILE * TILE;
            for (int64_t m = 0; m < number; m++) {
                const float* from = query + (member[m] * heads + h * repeats) * width;
                for (int64_t i = 0; i < repeats * width; i++) readers.query[m * repeats * width + i] = from[i] * scaling;
            }
            std::fill(readers.query + num * width, readers.query + filled * width, 0.0f);
            std::fill(readers.out, readers.out + filled * width, 0.0f);
            std::fill(readers.top, readers.top + filled, -INF);
            std::fill(readers.total, readers.total + filled, 0.0f);
            if (bucket >= 0) {
                const int64_t start = (task[3] * widths[bucket] * kv_heads + h) * width;
                read(readers, 0, filled, (int)width, keys[bucket] + start, values[bucket] + start, stride, task[4]);
            }
            for (int64_t m = 0; m < number; m++) {
                const int64_t *row = rows + 3 * member[m], own = row[0], length = row[2];
                const int64_t start = (row[1] * widths[own] * kv_heads + h) * width;
                float *key = keys[own] + start, *value = values[own] + start;
                const int64_t fresh = (member[m] * kv_heads + h) * width;
                std::memcpy(key + length * stride, new_key + fresh, width * sizeof(float));
                std::memcpy(value + length * stride, new_value + fresh, width * sizeof(float));
                read(readers, (int)(m * repeats), (int)repeats, (int)width, key, value, stride, length + 1);
                for (int64_t i = m * repeats; i < (m + 1) * repeats; i++) {
                    float* to = out + (member[m] * heads + h * repeats + i - m * repeats) * width;
                    for (int64_t d = 0; d < width; d++) to[d] = readers.out[i * width + d] / readers.total[i];
                }
            }
        }
}

}  // extern "C"

namespace {

// ---- the sampler --------------------------------------------------------------------------------------------------

inline Bits mix(Bits x) {
    x = (x ^ (x >> 16)) * 0x21F0AAADu;
    x = (x ^ (x >> 15)) * 0x735A2D97u;
    return x ^ (x >> 15);
}

inline uint64_t splitmix64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

// Gumbel noise of 32 random bits: -log(E), E = -log(1 - u), u = (bits + 1/2) / 2**32.
inline float gumbel_of(uint32_t bits) { return (float)-std::log(-std::log1p(-((double)bits + 0.5) * 0x1p-32)); }

struct Row {
    const float* logit;
    int64_t size;
    float temperature;
    Bits low, high;

    Vec at(int64_t v) const {  // scaled logits v .. v + LANES - 1; -inf past the last
        Vec x;
        if (v + LANES <= size) {
            x = load<Vec>(logit + v);
        } else {
            float rest[LANES];
            for (int i = 0; i < LANES; i++) rest[i] = v + i < size ? logit[v + i] : -INF;
            x = load<Vec>(rest);
        }
        return temperature == 1 ? x : x / temperature;
    }
    Bits hash(int64_t v) const { return mix(mix((same_bits<Bits>(COUNT) + (uint32_t)v) ^ low) ^ high); }
};

inline uint32_t hash_of(const Row& row, int64_t v) { return row.hash(v)[0]; }

// The token with the largest log-prob + noise, the lowest of equal ones, and its log-prob; -1 and NaN of a bad row.
void draw(const Row& row, bool greedy, float* weight, int64_t* token, float* logp) {
    const int64_t size = row.size;
    Vec top_V = all(-INF);
    Ints bad = {};
    for (int64_t v = 0; v < size; v += LANES) {
        const Vec x = row.at(v);
        bad |= x != x;
        top_V = larger(x, top_V);
    }
    const float top = largest_of(top_V);
    if (any(bad) || !std::isfinite(top)) {
        *token = -1;
        *logp = std::numeric_limits<float>::quiet_NaN();
        return;
    }
    Doubles total_V = {};
    Bits least_V = ~Bits{};
    Ints where_V = {};
    for (int64_t begin = 0; begin < size; begin += 64 * LANES) {
        Vec part_V = {};
        for (int64_t v = begin; v < std::min(size, begin + 64 * LANES); v += LANES) {
            const Vec e = exp_of(row.at(v) - top);
            store(weight + v, e);
            part_V += e;
            Bits half = row.hash(v) >> 1;
            if (v + LANES > size) half = COUNT + (int32_t)v < (int32_t)size ? half : ~Bits{};
            const Ints less = half < least_V;
            least_V = less ? half : least_V;
            where_V = less ? Ints{} + (int32_t)v : where_V;
        }
        total_V += __builtin_convertvector(part_V, Doubles);
    }
    double total = 0;
    for (int i = 0; i < LANES; i++) total += total_V[i];
    const float log_total = (float)std::log(total);
    const auto scaled = [&](int64_t v) { return row.temperature == 1 ? row.logit[v] : row.logit[v] / row.temperature; };
    const auto logp_of = [&](int64_t v) { return (scaled(v) - top) - log_total; };
    int64_t likeliest = 0;
    while (!any(row.at(likeliest) == top)) likeliest += LANES;
    while (scaled(likeliest) != top) likeliest++;
    if (greedy) {
        *token = likeliest;
        *logp = logp_of(likeliest);
        return;
    }
    int64_t noisiest = 0;
    uint32_t least = ~0u;
    for (int i = 0; i < LANES; i++)
        if (least_V[i] < least) least = least_V[i], noisiest = where_V[i] + i;
    const auto score_of = [&](int64_t v) { return gumbel_of(hash_of(row, v)) + logp_of(v); };
    const float bar = std::max(score_of(likeliest), score_of(noisiest));
    // A token beats the bar only if u <= exp(logp - bar): its weight times one number, with a margin for rounding.
    const float limit = std::exp(std::min(-log_total - bar, 60.0f)) * 2147483648.0f * 1.00001f;
    float best = -INF;
    *token = likeliest;
    const auto consider = [&](int64_t v) {
        const float score = score_of(v);
        if (score > best || (score == best && v < *token)) best = score, *token = v;
    };
    consider(likeliest);
    consider(noisiest);
    for (int64_t v = 0; v < size; v += LANES) {
        const Vec half = __builtin_convertvector(same_bits<Ints>(row.hash(v) >> 1), Vec);
        const Ints passes = half <= load<Vec>(weight + v) * limit + 0.0f;
        if (any(passes))
            for (int i = 0; i < LANES; i++)
                if (passes[i] && v + i < size && weight[v + i] > 0) consider(v + i);
    }
    *logp = logp_of(*token);
}

}  // namespace

extern "C" {

// logits: `size` of each row, `stride` floats from row to row; work: threads x (size, rounded up to 16) floats.
void sample(const float* logits, int64_t rows, int64_t size, int64_t stride, const int64_t* seeds,
            const int64_t* positions, float temperature, float* work, int64_t* tokens, float* logps, int threads) {
    const int64_t padded = (size + LANES - 1) / LANES * LANES;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const uint64_t key = splitmix64((uint64_t)seeds[r] + (uint64_t)positions[r] * 0x9E3779B97F4A7C15u);
        const Row row = {logits + r * stride, size, temperature == 0 ? 1.0f : temperature, Bits{} + (uint32_t)key,
                         Bits{} + (uint32_t)(key >> 32)};
        draw(row, temperature == 0, work + omp_get_thread_num() * padded, tokens + r, logps + r);
    }
}

}  // extern "C"
