#include "base/thread_pool.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <latch>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>

using namespace isr;

TEST_CASE("one thread runs tasks in the order they come", "[base][threads]") {
  std::vector<int> order;
  ThreadPool pool(1);
  for (int i = 0; i < 100; ++i) pool.submit([&order, i] { order.push_back(i); });
  pool.wait_idle();
  CHECK(pool.pending() == 0);
  REQUIRE(order.size() == 100);
  CHECK(std::is_sorted(order.begin(), order.end()));
}

TEST_CASE("the threads of a pool work at the same time", "[base][threads]") {
  std::latch all(4);
  ThreadPool pool(4);
  for (int i = 0; i < 4; ++i) pool.submit([&] { all.arrive_and_wait(); });  // ends only if all four run
  pool.wait_idle();
  CHECK(pool.pending() == 0);
}

TEST_CASE("pending() counts running and waiting tasks", "[base][threads]") {
  std::latch begun(1);
  std::latch go(1);
  ThreadPool pool(1);
  pool.submit([&] {
    begun.count_down();
    go.wait();
  });
  pool.submit([] {});
  pool.submit([] {});
  begun.wait();
  CHECK(pool.pending() == 3);
  go.count_down();
  pool.wait_idle();
  CHECK(pool.pending() == 0);
}

TEST_CASE("a pool with zero threads gets one", "[base][threads]") {
  bool ran = false;
  ThreadPool pool(0);
  pool.submit([&] { ran = true; });
  pool.wait_idle();
  CHECK(ran);
}

TEST_CASE("tasks may submit tasks, and waiting covers them", "[base][threads]") {
  std::atomic<int> ran{0};
  ThreadPool pool(2);
  std::function<void(int)> spawn = [&](int depth) {
    ++ran;
    if (depth == 0) return;
    pool.submit([&, depth] { spawn(depth - 1); });
    pool.submit([&, depth] { spawn(depth - 1); });
  };
  pool.submit([&] { spawn(6); });
  pool.wait_idle();
  CHECK(ran == 127);
}

TEST_CASE("destruction drops tasks that have not begun and waits for running ones", "[base][threads]") {
  std::atomic<int> finished{0};
  auto token = std::make_shared<int>();
  std::latch begun(1);
  std::latch go(1);
  {
    ThreadPool pool(1);
    pool.submit([&] {
      begun.count_down();
      go.wait();
      ++finished;
    });
    begun.wait();
    // The destructor takes the queue before it joins, so the token is freed
    // while the first task still runs; that lets it go on.
    auto release = std::shared_ptr<int>(new int, [&](int* p) {
      delete p;
      go.count_down();
    });
    for (int i = 0; i < 10; ++i) pool.submit([&finished, token, release] { ++finished; });
    CHECK(token.use_count() == 11);
  }
  CHECK(finished == 1);
  CHECK(token.use_count() == 1);
}

TEST_CASE("parallel_for visits each index once", "[base][threads]") {
  for (const unsigned threads : {0U, 1U, 3U, 16U}) {
    for (const std::size_t count : {0UL, 1UL, 2UL, 1000UL}) {
      std::vector<std::atomic<int>> visits(count);
      parallel_for(count, threads, [&](std::size_t i) { ++visits[i]; });
      CHECK(std::all_of(visits.begin(), visits.end(), [](const auto& v) { return v == 1; }));
    }
  }
}

TEST_CASE("parallel_for uses no more threads than allowed", "[base][threads]") {
  std::latch all(4);
  Sync<std::set<std::thread::id>> ids;
  parallel_for(4, 4, [&](std::size_t) {
    ids.lock()->insert(std::this_thread::get_id());
    all.arrive_and_wait();
  });
  CHECK(ids.lock()->size() == 4);
  ids.lock()->clear();
  parallel_for(1000, 2, [&](std::size_t) { ids.lock()->insert(std::this_thread::get_id()); });
  CHECK(ids.lock()->size() <= 2);
}

TEST_CASE("parallel_for rethrows an exception and starts nothing after it", "[base][threads]") {
  SECTION("on one thread") {
    std::size_t calls = 0;
    CHECK_THROWS_WITH(parallel_for(100, 1,
                                   [&](std::size_t i) {
                                     ++calls;
                                     if (i == 7) throw std::runtime_error("seven");
                                   }),
                      "seven");
    CHECK(calls == 8);
  }
  SECTION("on many threads, all of which end first") {
    std::atomic<int> inside{0};
    std::atomic<std::size_t> calls{0};
    CHECK_THROWS_AS(parallel_for(1'000'000, 8,
                                 [&](std::size_t i) {
                                   ++inside;
                                   ++calls;
                                   --inside;
                                   if (i >= 100) throw std::runtime_error(std::to_string(i));
                                 }),
                    std::runtime_error);
    CHECK(inside == 0);
    CHECK(calls <= 108);  // 100 good ones and at most one failure a thread
  }
}
