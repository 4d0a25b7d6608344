#pragma once

#include "image/first_touches.h"
#include "session/session_images.h"

namespace isr {

/// Images over what a suspended session has kept, for a VM whose writes are thrown away. Data that is not on
/// this host cannot be read: Error{kOffline}. Must not outlive the session.
struct RehearsalImages {
  std::vector<std::shared_ptr<Image>> disks;
  std::shared_ptr<Image> memory;
  std::shared_ptr<FirstTouches> touches;  ///< notes the first reads of all of them
};
/// The images of a session that is suspended with memory that was never published; else nullopt, because a
/// rehearsal of published memory has no use.
std::optional<RehearsalImages> rehearsal_images(const StateFile& state, const SessionImages& images,
                                                const SessionObjects& objects);

}  // namespace isr
