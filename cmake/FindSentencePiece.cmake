# sentencepiece from the system: SentencePiece::processor (encode, decode) and SentencePiece::trainer.
find_path(SentencePiece_INCLUDE_DIR sentencepiece_processor.h)
find_library(SentencePiece_LIBRARY sentencepiece)
find_library(SentencePiece_TRAIN_LIBRARY sentencepiece_train)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(SentencePiece REQUIRED_VARS SentencePiece_LIBRARY SentencePiece_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "On Debian: apt-get install libsentencepiece-dev")
if(SentencePiece_FOUND AND NOT TARGET SentencePiece::processor)
  add_library(SentencePiece::processor UNKNOWN IMPORTED)
  set_target_properties(SentencePiece::processor PROPERTIES IMPORTED_LOCATION ${SentencePiece_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${SentencePiece_INCLUDE_DIR})
  add_library(SentencePiece::trainer UNKNOWN IMPORTED)
  set_target_properties(SentencePiece::trainer PROPERTIES IMPORTED_LOCATION ${SentencePiece_TRAIN_LIBRARY}
                        INTERFACE_LINK_LIBRARIES SentencePiece::processor)
endif()
mark_as_advanced(SentencePiece_INCLUDE_DIR SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY)
