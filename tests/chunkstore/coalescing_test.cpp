#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "chunkstore/layers_bench.h"
#include "support/error_kind.h"
#include "support/memory_source.h"

namespace isr {

using test::ask;
using test::FaultSource;
using test::kind_thrown;
using test::source_with;
using Sample = test::LayerSample;

TEST_CASE("eight threads that want one object cause one fetch", "[chunkstore]") {
  const Sample sample;
  const auto memory = source_with(sample, sample.object);
  const auto source = make_coalescing(memory);
  memory->hold();
  std::atomic<int> begun = 0;
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        ++begun;
        if (ask(source, sample.cid) == sample.object) ++good;
      });
    }
    memory->wait_for_fetches(1);
    while (begun < 8) std::this_thread::yield();
    memory->release();
  }
  CHECK(good == 8);
  // A thread that was begun but had not asked yet when the fetch ended asks anew.
  CHECK(memory->fetches() < 8);
}

TEST_CASE("a failure reaches every waiting caller, and the next call asks again", "[chunkstore]") {
  const Sample sample;
  const auto memory = source_with(sample, sample.object);
  const auto source = make_coalescing(std::make_shared<FaultSource>(memory, ErrorKind::kDenied, 1));
  CHECK((kind_thrown([&] { ask(source, sample.cid); }) == ErrorKind::kDenied));
  CHECK((ask(source, sample.cid) == sample.object));
}

TEST_CASE("cancelling one caller leaves the others waiting for the same object", "[chunkstore]") {
  const Sample sample;
  const auto memory = source_with(sample, sample.object);
  const auto source = make_coalescing(memory);
  memory->hold();
  std::optional<ErrorKind> first_kind;
  std::optional<Bytes> second_got;
  std::stop_source first_stop;
  std::stop_source second_stop;
  std::jthread first([&] { first_kind = kind_thrown([&] { ask(source, sample.cid, first_stop.get_token()); }); });
  memory->wait_for_fetches(1);

  SECTION("the one that fetches: another takes over") {
    std::jthread second([&] { second_got = ask(source, sample.cid); });
    first_stop.request_stop();
    first.join();
    CHECK((first_kind == ErrorKind::kCancelled));
    memory->wait_for_fetches(2);
    memory->release();
    second.join();
    CHECK((second_got == sample.object));
  }
  SECTION("one that only waits: the fetch goes on") {
    std::optional<ErrorKind> second_kind;
    std::jthread second([&] { second_kind = kind_thrown([&] { ask(source, sample.cid, second_stop.get_token()); }); });
    second_stop.request_stop();
    second.join();
    CHECK((second_kind == ErrorKind::kCancelled));
    CHECK(memory->fetches() == 1);
    memory->release();
    first.join();
    CHECK_FALSE(first_kind.has_value());
  }
}

TEST_CASE("a waiter of higher priority fetches itself when the fetch that it waits for fails", "[chunkstore]") {
  class FailsAhead : public ObjectSource {
   public:
    explicit FailsAhead(SourcePtr inner) : inner_(std::move(inner)) {}
    std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
      auto object = inner_->fetch(cid, priority, std::move(stop));
      if (priority == Priority::kReadahead) throw Error(ErrorKind::kOffline, "not worth waiting for");
      return object;
    }
    std::string describe() const override { return "fails ahead"; }

   private:
    SourcePtr inner_;
  };
  const Sample sample;
  const auto memory = source_with(sample, sample.object);
  const auto source = make_coalescing(std::make_shared<FailsAhead>(memory));
  memory->hold();
  std::optional<ErrorKind> ahead_kind;
  std::optional<Bytes> got;
  {
    std::jthread ahead([&] { ahead_kind = kind_thrown([&] { source->fetch(sample.cid, Priority::kReadahead, {}); }); });
    memory->wait_for_fetches(1);
    std::jthread guest([&] { got = ask(source, sample.cid); });
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();  // so that it waits already, most times
    memory->release();
  }
  CHECK((ahead_kind == ErrorKind::kOffline));
  CHECK((got == sample.object));
}

}  // namespace isr
