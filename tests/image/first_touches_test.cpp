#include "image/first_touches.h"

#include <catch2/catch.hpp>

namespace isr {
namespace {

using namespace std::chrono_literals;
constexpr std::uint64_t kPage = kBootPageSize;
const FirstTouches::Time kStart{1h};

}  // namespace

TEST_CASE("pages and chunks are noted once each, in the order of their first read", "[image]") {
  FirstTouches touches;
  touches.note(1, 40 * kPage, kPage, kStart);
  touches.note(0, 100, 1, kStart);
  touches.note(1, 40 * kPage, kPage, kStart);      // again
  touches.note(1, 31 * kPage + 1, kPage, kStart);  // touches two pages, of two chunks
  touches.note(1, 0, 0, kStart);                   // nothing
  const BootOrder order = touches.order();
  CHECK((order.pages == std::vector<BootPlace>{{1, 40}, {0, 0}, {1, 31}, {1, 32}}));
  CHECK((order.chunks == std::vector<BootPlace>{{1, 1}, {0, 0}, {1, 0}}));
}

TEST_CASE("noting ends after the given time, first for pages, then for chunks", "[image]") {
  FirstTouches touches({.pages_for = 10s, .chunks_for = 60s});
  touches.note(0, 0, 1, kStart);
  touches.note(0, 1'000'000, 1, kStart + 10s);
  touches.note(0, 2'000'000, 1, kStart + 11s);
  touches.note(0, 3'000'000, 1, kStart + 61s);
  touches.note(0, 4'000'000, 1, kStart + 5s);  // it has ended
  CHECK(touches.order().pages.size() == 2);
  CHECK(touches.order().chunks.size() == 3);
}

TEST_CASE("the first touches stay when there is no room for more", "[image]") {
  FirstTouches touches({.pages = 2, .chunks = 1});
  for (std::uint64_t i = 5; i > 0; --i) touches.note(0, i * 1'000'000, 1, kStart);
  CHECK((touches.order().pages == std::vector<BootPlace>{{0, 5'000'000 / kPage}, {0, 4'000'000 / kPage}}));
  CHECK(touches.order().chunks.size() == 1);
}

}  // namespace isr
