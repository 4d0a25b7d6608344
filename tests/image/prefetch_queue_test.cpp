#include "image/prefetch_queue.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <latch>
#include <semaphore>

using namespace isr;

TEST_CASE("no more prefetches run at once than the window allows, which may change", "[image]") {
  std::atomic<unsigned> window{2};
  std::atomic<unsigned> running{0};
  std::atomic<unsigned> most{0};
  std::counting_semaphore<> begun(0);
  std::counting_semaphore<> go_on(0);
  PrefetchQueue queue({}, [&] { return window.load(); });
  const auto task = [&] {
    const unsigned now = ++running;
    for (unsigned before = most; before < now && !most.compare_exchange_weak(before, now);) {
    }
    begun.release();
    go_on.acquire();
    --running;
  };
  for (int i = 0; i < 12; ++i) queue.submit(task);
  begun.acquire(), begun.acquire();
  CHECK(most == 2);
  window = 5;
  queue.submit(task);  // starts the threads that are missing
  for (int i = 0; i < 3; ++i) begun.acquire();
  CHECK(most == 5);
  window = 1;
  go_on.release(13);
  for (int i = 0; i < 8; ++i) begun.acquire();
  CHECK(most == 5);
}

TEST_CASE("a window of zero still lets one prefetch run", "[image]") {
  std::latch done(3);
  PrefetchQueue queue({}, [] { return 0U; });
  for (int i = 0; i < 3; ++i) queue.submit([&] { done.count_down(); });
  done.wait();
}

TEST_CASE("prefetches that have not begun are dropped when too many wait, and at the end", "[image]") {
  std::atomic<int> ran{0};
  std::binary_semaphore begun(0);
  std::binary_semaphore go_on(0);
  {
    PrefetchQueue queue({.threads = 1, .most_waiting = 3}, [] { return 1U; });
    queue.submit([&] {
      begun.release();
      go_on.acquire();
    });
    begun.acquire();
    for (int i = 0; i < 10; ++i) queue.submit([&] { ++ran; });
    SECTION("too many wait") {
      std::latch done(1);
      go_on.release();
      while (ran < 3) std::this_thread::yield();
    }
    SECTION("the end") { go_on.release(); }
  }
  CHECK(ran <= 3);
}
