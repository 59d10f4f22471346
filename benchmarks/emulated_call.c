/* Calls a kernel that TVM made for another processor, under an emulator of it: what the kernel's
 * object file asks of TVM's runtime is here, on one thread.
 *
 *   emulated_call FOLDER
 *
 * FOLDER/arguments.txt has a line for each tensor: its file, DLPack's code and bits of its dtype, and
 * its shape. Files are read before the call and written after it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#define MOST 8
#define TASKS 3

extern int __tvm_ffi_main(void* handle, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result);

typedef struct {
  void* sync_handle;
  int32_t num_task;
} Group;
typedef int (*Task)(int task, Group* group, void* data);

static int launch(Task task, void* data, int tasks) {
  Group group = {NULL, tasks ? tasks : TASKS};
  for (int i = 0; i < group.num_task; ++i) {
    if (task(i, &group, data)) return -1;
  }
  return 0;
}

static void* allocate(int type, int id, uint64_t bytes, int code, int bits) {
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static int release(int type, int id, void* memory) {
  free(memory);
  return 0;
}

int (*__TVMBackendParallelLaunch)(Task, void*, int) = launch;
void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void*) = release;

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; ++i) fputs(parts[i] ? parts[i] : "", stderr);
  fputs("\n", stderr);
}

int main(int argc, char** argv) {
  static char name[MOST][64], path[4096];
  static int64_t shape[MOST][4], bytes[MOST];
  static DLTensor tensor[MOST];
  static TVMFFIAny arg[MOST], result;
  int count = 0, code, bits, ndim;
  snprintf(path, sizeof path, "%s/arguments.txt", argv[1]);
  FILE* list = fopen(path, "r");
  while (fscanf(list, "%63s %d %d %d", name[count], &code, &bits, &ndim) == 4) {
    bytes[count] = bits / 8;
    for (int i = 0; i < ndim; ++i) {
      if (fscanf(list, "%ld", &shape[count][i]) != 1) return 2;
      bytes[count] *= shape[count][i];
    }
    void* data = allocate(0, 0, bytes[count], 0, 0);
    snprintf(path, sizeof path, "%s/%s", argv[1], name[count]);
    FILE* file = fopen(path, "rb");
    if (fread(data, 1, bytes[count], file) != (size_t)bytes[count]) return 2;
    fclose(file);
    tensor[count] = (DLTensor){data, {kDLCPU, 0}, ndim, {code, bits, 1}, shape[count], NULL, 0};
    arg[count].type_index = kTVMFFIDLTensorPtr;
    arg[count].v_ptr = &tensor[count];
    ++count;
  }
  if (__tvm_ffi_main(NULL, arg, count, &result)) return 1;
  for (int i = 0; i < count; ++i) {
    snprintf(path, sizeof path, "%s/%s", argv[1], name[i]);
    FILE* file = fopen(path, "wb");
    fwrite(tensor[i].data, 1, bytes[i], file);
    fclose(file);
  }
  return 0;
}
