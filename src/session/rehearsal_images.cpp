#include "session/rehearsal_images.h"

#include "image/scratch_overlay.h"
#include "session/packed_images.h"

namespace isr {

std::optional<RehearsalImages> rehearsal_images(const StateFile& state, const SessionImages& session_images,
                                                const SessionObjects& objects) {
  if (state.now().phase != SessionPhase::kSuspended || !session_images.part(ImageRole::kMemory).overlay->is_dirty())
    return std::nullopt;
  RehearsalImages images;
  images.touches = std::make_shared<FirstTouches>();
  const auto reader = objects.local_reader();
  const std::vector<std::string> names = packed_image_names(state.now());
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto base = session_images.part(names[i]).image->base_content();
    auto scratch = make_scratch_overlay(state.directory(), base->tree().size(), session_images.part(names[i]).overlay);
    auto image = std::make_shared<Image>(names[i], base, reader, std::move(scratch));
    image->set_touches(images.touches, static_cast<std::uint8_t>(i));
    (names[i] == to_name(ImageRole::kMemory) ? images.memory : images.disks.emplace_back()) = std::move(image);
  }
  return images;
}

}  // namespace isr
