"""The recogniser: SpeechBrain's CRDNN, attentional GRU decoder and CTC head; its loss; its decoders."""
