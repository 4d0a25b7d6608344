#include "repository/store_waits.h"

#include <catch2/catch.hpp>

using namespace isr;
using namespace std::chrono_literals;

TEST_CASE("a wait is reported at 10, 30 and 60 seconds, and then each minute", "[repository]") {
  StoreWaits waits;
  WaitReport report;
  CHECK_FALSE(report.due(waits, "home"));
  const StoreWaits::Call call(&waits);
  const auto began = *waits.oldest();
  std::vector<int> told;
  for (int second = 0; second <= 200; ++second) {
    if (const auto words = report.due(waits, "home", began + std::chrono::seconds(second))) {
      CHECK(*words == "no answer from home for " + std::to_string(second) + " s");
      told.push_back(second);
    }
  }
  CHECK(told == std::vector<int>{10, 30, 60, 120, 180});
}

TEST_CASE("the oldest of several calls is reported, and an answer ends its wait", "[repository]") {
  StoreWaits waits;
  WaitReport report;
  auto first = std::make_optional<StoreWaits::Call>(&waits);
  const auto began = *waits.oldest();
  const StoreWaits::Call second(&waits);
  CHECK(waits.oldest() == began);
  CHECK(report.due(waits, "home", began + 11s));
  first.reset();
  REQUIRE(waits.oldest());
  CHECK(*waits.oldest() > began);
  CHECK_FALSE(report.due(waits, "home", *waits.oldest() + 9s));
  CHECK(report.due(waits, "home", *waits.oldest() + 10s));
}
