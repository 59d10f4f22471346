// The tile instructions of AMX that kernels use, as functions: for tests on CPUs without.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kTiles = 8, kRows = 16, kBytes = 64 };

static _Thread_local uint8_t tiles[kTiles][kRows][kBytes];
static _Thread_local int ready;
static int refused;

void prefill_test_refuse(int whether) { refused = whether; }

int64_t prefill_test_syscall(int64_t number, int64_t what, int64_t state) {
  return refused || number != 158 || what != 0x1023 || state != 18 ? -1 : 0;
}

static void require(int condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "amx_on_cpu: %s\n", what);
  abort();
}

int prefill_test_ldtilecfg(const uint8_t* config) {
  require(config[0] == 1 && config[1] == 0, "another palette, or a row to begin with");
  for (int each = 0; each < kTiles; ++each) {
    uint16_t bytes;
    memcpy(&bytes, config + 16 + 2 * each, sizeof bytes);
    require(bytes == kBytes && config[48 + each] == kRows, "a tile of another size");
  }
  for (int each = 2; each < 16; ++each) require(config[each] == 0, "reserved bytes");
  for (int each = 32; each < 48; ++each) require(config[each] == 0, "tiles that there are not");
  for (int each = 56; each < 64; ++each) require(config[each] == 0, "tiles that there are not");
  memset(tiles, 0, sizeof tiles);
  ready = 1;
  return 0;
}

int prefill_test_tilerelease(void) {
  require(ready, "released before it is ready");
  ready = 0;
  return 0;
}

int prefill_test_tilezero(uint8_t tile) {
  require(ready && tile < kTiles, "not ready");
  memset(tiles[tile], 0, sizeof tiles[tile]);
  return 0;
}

int prefill_test_tileloadd64(uint8_t tile, const uint8_t* from, int64_t stride) {
  require(ready && tile < kTiles, "not ready");
  for (int row = 0; row < kRows; ++row) memcpy(tiles[tile][row], from + row * stride, kBytes);
  return 0;
}

int prefill_test_tilestored64(uint8_t tile, uint8_t* to, int64_t stride) {
  require(ready && tile < kTiles, "not ready");
  for (int row = 0; row < kRows; ++row) memcpy(to + row * stride, tiles[tile][row], kBytes);
  return 0;
}

static float widened(const uint8_t* bfloat16) {
  uint16_t half;
  memcpy(&half, bfloat16, sizeof half);
  uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

int prefill_test_tdpbf16ps(uint8_t sum, uint8_t left, uint8_t right) {
  require(ready && sum < kTiles && left < kTiles && right < kTiles, "not ready");
  for (int row = 0; row < kRows; ++row)
    for (int column = 0; column < kBytes / 4; ++column) {
      float value;
      memcpy(&value, &tiles[sum][row][4 * column], sizeof value);
      for (int pair = 0; pair < kBytes / 4; ++pair)
        for (int each = 0; each < 4; each += 2)
          value += widened(&tiles[left][row][4 * pair + each]) *
                   widened(&tiles[right][pair][4 * column + each]);
      memcpy(&tiles[sum][row][4 * column], &value, sizeof value);
    }
  return 0;
}
