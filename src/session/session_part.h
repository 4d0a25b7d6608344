#pragma once

#include "session/session.h"

namespace isr {

/// An image of a session with the overlay that its changes stand in.
struct Session::Part {
  std::uint16_t number = 0;
  std::string name;
  std::shared_ptr<JournalOverlay> overlay;
  std::shared_ptr<Image> image;
};

}  // namespace isr
