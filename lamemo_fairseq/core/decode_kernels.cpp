// Products of a few rows in float32, for decode_kernels.py: each weight, key and value is read once, as fast as memory
// gives it. Plain C++ for any CPU; GNU's vector types become what the compiler's target has.

namespace {

#ifdef __AVX512F__
constexpr int VECTORS = 4;
#else
constexpr int VECTORS = 1;  // 4 rows of sums fit into 16 registers of 8 numbers
#endif
constexpr int LANES = 16, BLOCK = LANES * VECTORS, ROWS = 4;
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

inline const lanes& load(const float* from) { return *reinterpret_cast<const lanes*>(from); }

inline float dot(const float* a, const float* b, long count) {
  lanes sums = {};
  long j = 0;
  for (; j + LANES <= count; j += LANES) sums += load(a + j) * load(b + j);
  float sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
  for (; j < count; j++) sum += a[j] * b[j];
  return sum;
}

// sums[r][c] = x[r] . column c of w, for rows r < R and columns c < BLOCK.
template <int R>
void whole_block(const float* x, long x_row, const float* w, long w_row, long inner, float (*sums)[BLOCK]) {
  lanes found[R][VECTORS] = {};
  for (long i = 0; i < inner; i++, w += w_row) {
    for (int v = 0; v < VECTORS; v++) __builtin_prefetch(w + 16 * w_row + v * LANES);
    for (int v = 0; v < VECTORS; v++) {
      const lanes weights = load(w + v * LANES);
      for (int r = 0; r < R; r++) found[r][v] += x[r * x_row + i] * weights;
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < VECTORS; v++) *reinterpret_cast<lanes*>(sums[r] + v * LANES) = found[r][v];
}

// The same for `width` columns, behind which nothing may be read.
void part_of_block(int rows, const float* x, long x_row, const float* w, long w_row, long inner, int width,
                   float (*sums)[BLOCK]) {
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < width; c++) sums[r][c] = 0;
  for (long i = 0; i < inner; i++, w += w_row)
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < width; c++) sums[r][c] += x[r * x_row + i] * w[c];
}

void block(int rows, const float* x, long x_row, const float* w, long w_row, long inner, int readable,
           float (*sums)[BLOCK]) {
  if (readable < BLOCK) return part_of_block(rows, x, x_row, w, w_row, inner, readable, sums);
  switch (rows) {
    case 1: return whole_block<1>(x, x_row, w, w_row, inner, sums);
    case 2: return whole_block<2>(x, x_row, w, w_row, inner, sums);
    case 3: return whole_block<3>(x, x_row, w, w_row, inner, sums);
    default: return whole_block<ROWS>(x, x_row, w, w_row, inner, sums);
  }
}

inline int smaller(long a, long b) { return int(a < b ? a : b); }

}  // namespace

extern "C" {

// Columns in a block of packed weights.
int lamemo_block() { return BLOCK; }

// y [B, out] = x [B, in] W^T + bias + residual, then ReLU; w [blocks, in, BLOCK], padded; bias, residual or neither.
void lamemo_linear(const float* x, const float* w, const float* bias, const float* residual, float* y, long B, long in,
                   long out, int relu, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long first = 0; first < out; first += BLOCK) {
    const int width = smaller(BLOCK, out - first);
    for (long row = 0; row < B; row += ROWS) {
      const int rows = smaller(ROWS, B - row);
      float sums[ROWS][BLOCK];
      block(rows, x + row * in, in, w + first * in, BLOCK, in, BLOCK, sums);
      for (int r = 0; r < rows; r++) {
        const long at = (row + r) * out + first;
        for (int c = 0; c < width; c++) {
          float sum = sums[r][c];
          if (bias) sum += bias[first + c];
          if (residual) sum += residual[at + c];
          y[at + c] = relu && sum < 0 ? 0 : sum;
        }
      }
    }
  }
}

// qkv [B, 3, H, d] of one token: its key and value enter keys [H, B, capacity, d] and values [H, B, d, capacity] at
// T - 1, and scores [H, B, T - first] are those of keys first to T - 1. With relative [H, d, S] and shared [H, S]: its
// columns from `column` on belong to these keys.
void lamemo_scores(const float* qkv, float* keys, float* values, const float* relative, const float* shared,
                   float* scores, long H, long B, long d, long capacity, long first, long T, long S, long column,
                   int threads) {
  const long row = 3 * H * d, count = T - first;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long h = 0; h < H; h++) {
    const float* q = qkv + h * d;
    for (long start = 0; relative && start < count; start += BLOCK) {
      const int width = smaller(BLOCK, count - start);
      for (long b = 0; b < B; b += ROWS) {
        const int rows = smaller(ROWS, B - b);
        float sums[ROWS][BLOCK];
        block(rows, q + b * row, row, relative + h * d * S + column + start, S, d, width, sums);
        for (int r = 0; r < rows; r++)
          for (int c = 0; c < width; c++)
            scores[(h * B + b + r) * count + start + c] = sums[r][c] + shared[h * S + column + start + c];
      }
    }
    for (long b = 0; b < B; b++) {
      const long at = h * B + b;
      float* key = keys + (at * capacity + T - 1) * d;
      for (long j = 0; j < d; j++) {
        key[j] = q[b * row + H * d + j];
        values[(at * d + j) * capacity + T - 1] = q[b * row + 2 * H * d + j];
      }
      key = keys + (at * capacity + first) * d;
      float* score = scores + at * count;
      for (long t = 0; t < count; t++, key += d) {
        __builtin_prefetch(key + 16 * d);
        for (long j = LANES; j < d; j += LANES) __builtin_prefetch(key + 16 * d + j);
        const float product = dot(key, q + b * row, d);
        score[t] = relative ? score[t] + product : product;
      }
    }
  }
}

// out [B, H, d] = weights [H, B, T - first] times values [H, B, d, capacity] from `first` on.
void lamemo_mix(const float* weights, const float* values, float* out, long H, long B, long d, long capacity,
                long first, long T, int threads) {
  const long count = T - first;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long at = 0; at < H * B; at++) {
    float* to = out + ((at % B) * H + at / B) * d;
    for (long j = 0; j < d; j++) to[j] = dot(weights + at * count, values + (at * d + j) * capacity + first, count);
  }
}
}
