#include "image/settle_policy.h"

#include <catch2/catch.hpp>

using namespace isr;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kMiB = 1U << 20U;

/// Asks a policy as a keeper does, five times a second, while somebody writes at a steady rate.
struct Keeper {
  bool ask(std::uint64_t journal_bytes) { return policy.is_due(journal_bytes, written, now); }
  void pass(std::chrono::milliseconds time, std::uint64_t bytes_per_s) {
    for (; time > 0ms; time -= 200ms) {
      now += 200ms;
      written += bytes_per_s / 5;
      ask(0);
    }
  }
  SettlePolicy policy;
  SettlePolicy::Time now = SettlePolicy::Time{} + 1h;
  std::uint64_t written = 0;
};

}  // namespace

TEST_CASE("a busy guest's journal is not settled until it is large", "[image]") {
  Keeper keeper;
  CHECK_FALSE(keeper.ask(512 * kMiB));  // nothing is known yet
  keeper.pass(10s, 100 * kMiB);
  CHECK_FALSE(keeper.ask(512 * kMiB));
  CHECK(keeper.ask(1025 * kMiB));
}

TEST_CASE("a calm guest's journal is settled except for its last part", "[image]") {
  Keeper keeper;
  keeper.pass(6s, kMiB);
  CHECK(keeper.ask(65 * kMiB));
  CHECK_FALSE(keeper.ask(64 * kMiB));
  SECTION("until the guest begins to write again") {
    keeper.pass(6s, 100 * kMiB);
    CHECK_FALSE(keeper.ask(65 * kMiB));
  }
}

TEST_CASE("a step that gained nothing is not repeated at once", "[image]") {
  Keeper keeper;
  keeper.pass(6s, kMiB);
  keeper.policy.gained_nothing(keeper.now);
  CHECK_FALSE(keeper.ask(500 * kMiB));
  keeper.pass(9s, kMiB);
  CHECK_FALSE(keeper.ask(500 * kMiB));
  keeper.pass(2s, kMiB);
  CHECK(keeper.ask(500 * kMiB));
}

TEST_CASE("writes before the first call do not count as a burst", "[image]") {
  Keeper keeper;
  keeper.written = 5000 * kMiB;
  keeper.pass(6s, 0);
  CHECK(keeper.ask(65 * kMiB));
}
