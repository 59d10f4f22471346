// The threads that kernels of a library for a CPU run on: one pool, whoever calls them.
//
// TVM's runtime has a pool for each thread that calls a kernel. It does not survive a fork (a child
// waits for ever for threads that it has not), is made anew for every thread, binds its threads and
// the caller to the first cores of the machine whatever the process may use, and takes one thread
// on a machine with two. Generated code calls the launcher through the variable at the end of this
// file, which TVM's runtime sets where it finds it: hidden here, it is not found, and keeps ours.

#include <pthread.h>
#include <signal.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default"), used))
#define HIDDEN extern "C" __attribute__((visibility("hidden"), used))

extern "C" __attribute__((weak)) void TVMFFIErrorSetRaisedFromCStr(const char*, const char*);

namespace {

// TVM's TVMParallelGroupEnv and FTVMParallelLambda. No kernel of ours has a barrier to wait at.
struct Group {
  void* barrier;
  int32_t num_tasks;
};
using Task = int (*)(int index, Group* group, void* data);

// How often a worker looks for more before it sleeps, some 100 microseconds: longer than from one
// kernel of a layer to the next, and too short to be felt by whatever else runs on these cores.
constexpr int kLooks = 300;

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    sigset_t all, before;  // signals are for the threads of the program
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (int index = 1; index < threads; ++index) workers_.emplace_back([this] { Work(); });
    } catch (const std::system_error&) {  // no more threads for this process: fewer do all
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(asleep_);
      stopped_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int threads() const { return threads_; }

  // One at a time.
  bool Run(Task task, void* data, int count) {
    task_ = task;
    data_ = data;
    group_ = {nullptr, count};
    failed_ = false;
    finished_ = 0;
    {
      std::lock_guard<std::mutex> lock(asleep_);  // whoever falls asleep has not seen the old one
      open_ = ((open_ >> 32) + 1) << 32 | static_cast<uint32_t>(count);
    }
    wake_.notify_all();
    Help();
    while (finished_ != count) std::this_thread::yield();
    return !failed_;
  }

 private:
  bool HasWork() const { return static_cast<uint32_t>(open_.load()) != 0; }

  void Work() {
    for (;;) {
      Help();
      for (int look = 0; look < kLooks && !HasWork(); ++look) std::this_thread::yield();
      if (!HasWork()) {
        std::unique_lock<std::mutex> lock(asleep_);
        wake_.wait(lock, [this] { return stopped_ || HasWork(); });
        if (stopped_) return;
      }
    }
  }

  // Take tasks until none is left. What is read of a job after one was taken stands until it is done.
  void Help() {
    uint64_t open = open_;
    while (static_cast<uint32_t>(open) != 0) {
      if (!open_.compare_exchange_weak(open, open - 1)) continue;
      int index = group_.num_tasks - static_cast<int>(static_cast<uint32_t>(open));
      if (task_(index, &group_, data_) != 0) failed_ = true;
      ++finished_;
      open = open_;
    }
  }

  const int threads_;
  std::vector<std::thread> workers_;
  std::mutex asleep_;
  std::condition_variable wake_;
  bool stopped_ = false;
  Task task_ = nullptr;
  void* data_ = nullptr;
  Group group_{nullptr, 0};
  std::atomic<uint64_t> open_{0};  // the number of the job, and how many of its tasks nobody took
  std::atomic<int> finished_{0};
  std::atomic<bool> failed_{false};
};

struct State {
  std::mutex busy;
  std::unique_ptr<Pool> pool;
};

std::atomic<State*> current{nullptr};
std::atomic<int> wanted{0};

State* Current() {
  State* found = current;
  if (found != nullptr) return found;
  State* fresh = new State;
  if (current.compare_exchange_strong(found, fresh)) return fresh;
  delete fresh;
  return found;
}

// A child has none of the threads, and a lock that one of them held is held for ever.
const int forks = pthread_atfork(nullptr, nullptr, [] { current = nullptr; });

// At the end of the process, or where the library is closed.
struct End {
  ~End() {
    State* last = current.exchange(nullptr);
    if (last == nullptr || !last->busy.try_lock()) return;
    last->pool.reset();
    last->busy.unlock();
    delete last;
  }
} end;

int UsableCores() {
#ifdef __linux__
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof usable, &usable) == 0) return CPU_COUNT(&usable);
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

int Threads() {
  if (wanted > 0) return wanted;
  for (const char* name : {"TVM_NUM_THREADS", "OMP_NUM_THREADS"}) {
    const char* number = std::getenv(name);
    if (number != nullptr && std::atoi(number) > 0) return std::atoi(number);
  }
  return std::min(PREFILLTUNE_TUNED_THREADS, UsableCores());
}

int Launch(Task task, void* data, int count) {
  if (count <= 0) count = Threads();
  if (count == 1) {
    Group alone{nullptr, 1};
    return task(0, &alone, data);
  }
  State* state = Current();
  std::lock_guard<std::mutex> lock(state->busy);  // callers take turns, each with all threads
  if (state->pool == nullptr || state->pool->threads() != count) {
    state->pool.reset();
    state->pool.reset(new Pool(count));
  }
  if (state->pool->Run(task, data, count)) return 0;
  if (TVMFFIErrorSetRaisedFromCStr != nullptr) {
    TVMFFIErrorSetRaisedFromCStr("RuntimeError", "a thread of a kernel failed: no memory is left");
  }
  return -1;
}

}  // namespace

// How many threads kernels of this library run on from the next call on; 0: as many as usual.
EXPORTED void prefilltune_set_threads(int count) { wanted = count; }

// How many they run on.
EXPORTED int prefilltune_threads(void) { return Threads(); }

HIDDEN int (*__TVMBackendParallelLaunch)(Task, void*, int) = Launch;
