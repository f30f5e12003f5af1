"""French sentences without end: a grammar with some thousands of word forms, most of them rare, as in real speech.

A word of rank r in its list is drawn with a probability in proportion to 1 / (r + 3) (Zipf, flattened at the top):
a few words make up most of the speech, and some words of the test were never said in training.
"""

from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import numpy as np

ELIDED = "aeiouyhàâéèêëîïôùûüœ"  # before these le, la, de, je, ne, que lose their vowel


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split("|"))


# Each list is in the order of how often its words are drawn.
MASCULINE = _words("""
    chat chien livre village jardin train voisin médecin marché château matin fleuve musée théâtre journal projet
    chemin bateau gâteau restaurant bâtiment professeur directeur parc quartier président groupe peintre film roman
    conseil service travail moteur camion pont ballon concert port champ ministre banquier boulanger facteur
    cuisinier chanteur danseur lecteur coiffeur mécanicien musicien comédien gardien pharmacien chirurgien infirmier
    fermier jardinier menuisier plombier policier pompier soldat capitaine marin pilote chauffeur voyageur touriste
    élève étudiant ami enfant cousin oncle frère père mari fils garçon bébé roi prince comte duc poète sculpteur
    architecte ingénieur avocat juge notaire maire député sénateur évêque moine cheval mouton cochon canard lapin
    renard loup ours lion tigre éléphant singe serpent poisson requin dauphin papillon moustique oiseau pigeon
    corbeau aigle arbre sapin chêne buisson bouquet fruit citron melon raisin abricot champignon poivron oignon
    poireau chou navet fromage beurre pain croissant biscuit chocolat bonbon sirop café thé vin vinaigre sucre sel
    poivre plat couteau verre bol panier sac carton tiroir placard fauteuil canapé tapis rideau miroir tableau cadre
    bureau ordinateur clavier écran téléphone crayon stylo cahier dictionnaire document dossier courrier timbre
    billet contrat budget impôt salaire prix cadeau manteau pantalon chapeau foulard gant bracelet collier bijou
    diamant métal fer cuivre plomb charbon pétrole moulin four fourneau radiateur robinet tuyau escalier couloir
    plafond plancher toit mur volet portail garage atelier magasin supermarché entrepôt hôpital collège lycée
    institut laboratoire tribunal commissariat aéroport tramway métro autobus vélo tracteur navire canal lac étang
    ruisseau torrent glacier volcan désert vallon sommet sentier carrefour trottoir boulevard virage tunnel orage
    nuage vent brouillard soleil printemps automne hiver dimanche tournoi championnat match stade joueur arbitre
    entraîneur record trophée violon piano tambour accordéon orchestre spectacle décor costume masque
""")
FEMININE = _words("""
    maison voiture ville école fille femme porte table rivière route chanson gare place rue église histoire lettre
    équipe famille musique langue région société commune fenêtre montagne forêt plage mer île voisine directrice
    chanteuse danseuse boulangère infirmière avocate étudiante amie cousine tante sœur mère grand-mère reine
    princesse comtesse poétesse actrice romancière pharmacienne musicienne comédienne gardienne fermière policière
    touriste élève voyageuse lectrice coiffeuse vendeuse couturière bibliothécaire secrétaire journaliste
    photographe ministre députée vache chèvre poule jument brebis souris grenouille tortue abeille fourmi araignée
    baleine mouette chouette hirondelle fleur rose tulipe orchidée herbe feuille branche racine pomme poire cerise
    fraise framboise banane orange prune olive tomate carotte salade aubergine courgette citrouille noisette amande
    soupe tarte crêpe confiture crème viande saucisse omelette sauce épice boisson limonade bouteille tasse assiette
    fourchette cuillère casserole poêle serviette nappe chaise armoire commode étagère lampe bougie horloge montre
    radio télévision machine caméra photo image peinture statue sculpture exposition bibliothèque librairie boutique
    pâtisserie épicerie pharmacie banque poste mairie préfecture usine ferme grange cave cuisine chambre terrasse
    cour piscine fontaine tour citadelle cathédrale chapelle abbaye université faculté classe leçon phrase page
    carte enveloppe adresse facture monnaie fortune récompense chemise robe jupe veste cravate ceinture chaussure
    botte bague couronne perle valise tente échelle corde scie pelle roue bicyclette moto fusée barque péniche
    écluse falaise colline vallée plaine prairie clairière cascade source tempête neige pluie étoile lune planète
    saison semaine année compétition victoire défaite médaille balle raquette guitare flûte trompette harpe
    symphonie mélodie danse comédie tragédie scène
""")
PLACES = _words("""
    paris lyon marseille lille bordeaux toulouse nantes strasbourg rennes nice grenoble dijon angers reims bruxelles
    genève montréal québec lausanne liège namur tours metz nancy rouen caen brest limoges poitiers amiens avignon
    perpignan besançon orléans mulhouse colmar valence annecy chambéry bayonne biarritz quimper lorient vannes
    cholet niort angoulême périgueux cahors albi rodez mende nîmes arles toulon cannes antibes menton bastia ajaccio
    fribourg neuchâtel sion mons charleroi tournai dakar abidjan tunis rabat beyrouth londres madrid rome lisbonne
    vienne berlin prague varsovie athènes
""")
NAMES = _words("""
    marie jean pierre claire paul julie louis anne thomas sophie nicolas camille julien émilie antoine charlotte
    mathieu hélène vincent cécile laurent isabelle olivier martine philippe sylvie patrick nathalie françois
    catherine michel monique alain brigitte rené simone marcel odette roger yvonne gaston suzanne lucien germaine
    émile fernand rosalie barnabé clotilde anselme aurélien bérénice cyprien daphné ernestine félicien gwenaëlle
    honorine isidore joséphine léopold mélisande narcisse octave philomène quentin raphaëlle sidonie théodore ursule
    valentine wilfried zacharie
""")
# stems of regular verbs in -er that take an object
VERBS = _words("""
    regard cherch trouv aim port mont pass prépar visit dessin chant rencontr apport cass ferm lav montr oubli
    détest ador écout racont observ imit admir examin répar install transport command invent cach décor récolt plant
    arros coup vid brûl frott caress attrap lâch pouss tir réclam refus accept critiqu compar copi photographi
    expliqu calcul mesur invit salu félicit consol surveill gard abandonn retrouv traîn accroch décroch emball
    déball pos plac rang chang mang goût aval déguis habill coiff maquill sauv soign vaccin dérang réveill embrass
    épous quitt accus dénonc condamn provoqu bricol rabot ponc sci restaur modifi vérifi signal grav sculpt tiss
    brod tricot
""")
# behind the noun, invariable before the plural's s
ADJECTIVES = _words("""
    rouge jaune calme jeune triste propre énorme vide fragile célèbre magnifique moderne tranquille rapide étrange
    immense sombre timide habile sauvage solide pauvre riche fidèle sincère utile agréable terrible aimable
    confortable remarquable formidable minuscule tiède rustique antique fantastique fertile aride austère bizarre
    comique élastique fabuleux-x gigantesque honnête incroyable juste lisse mobile noble opaque pittoresque robuste
    souple tenace unique vaste écarlate mauve pourpre turquoise sordide limpide splendide rigide candide morose
    maussade farouche louche fade
""")
ADVERBS = _words("""
    souvent toujours parfois rarement lentement vite doucement enfin encore seulement vraiment facilement prudemment
    discrètement soudainement joyeusement tristement calmement régulièrement longuement patiemment maladroitement
    fièrement
""")
WHEN = _phrases("""
    hier | demain | aujourd'hui | ce matin | ce soir | la semaine dernière | chaque jour | en été | en hiver | au
    printemps | en automne | pendant la nuit | le lundi | le samedi | avant midi | après le repas | depuis longtemps
    | au début du siècle | à la fin du mois | de temps en temps
""")
TENSES = {  # endings of je/il, nous, vous, ils
    "present": ("e", "ons", "ez", "ent"),
    "imperfect": ("ait", "ions", "iez", "aient"),
    "future": ("era", "erons", "erez", "eront"),
    "conditional": ("erait", "erions", "eriez", "eraient"),
    "past": ("a", "âmes", "âtes", "èrent"),
}
UNITS = _words("""
    zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit
    dix-neuf
""")
TENS = {2: "vingt", 3: "trente", 4: "quarante", 5: "cinquante", 6: "soixante", 8: "quatre-vingt"}


def say(rng: np.random.Generator) -> str:
    """A sentence of 4 to some 20 words, in lower case, spelt as in Common Voice before it is normalised."""
    kinds = (_statement, _statement, _statement, _question, _description, _travel, _purchase, _report)
    sentence = _pick(rng, kinds)(rng)
    if rng.random() < 0.15:
        sentence += " et " + _statement(rng)
    return sentence


def number(value: int) -> str:
    """0 to 999,999 in words."""
    if value >= 1000:
        thousands = "" if value < 2000 else number(value // 1000) + " "
        return f"{thousands}mille" + (f" {number(value % 1000)}" if value % 1000 else "")
    if value >= 100:
        hundreds = "" if value < 200 else UNITS[value // 100] + " "
        return f"{hundreds}cent" + (f" {number(value % 100)}" if value % 100 else "")
    if value < 20:
        return UNITS[value]
    ten = value // 10 if value // 10 in TENS else value // 10 - 1  # soixante-dix, quatre-vingt-dix
    rest = value - 10 * ten
    if rest == 0:
        return TENS[ten]
    return f"{TENS[ten]}{' et ' if rest in (1, 11) and ten != 8 else '-'}{UNITS[rest]}"


def _statement(rng: np.random.Generator) -> str:
    subject, ending = _subject(rng)
    words = [_verb(rng, subject, ending), _thing(rng)]
    if rng.random() < 0.25:
        words.insert(1, _pick(rng, ADVERBS))
    if rng.random() < 0.3:
        words.append(_where(rng))
    return _with_time(rng, " ".join(words))


def _question(rng: np.random.Generator) -> str:
    subject, ending = _subject(rng)
    asked = _pick(rng, ("est-ce que", "pourquoi est-ce que", "quand est-ce que", "comment est-ce que"))
    return _elide(f"{asked} {_verb(rng, subject, ending)} {_thing(rng)}")


def _description(rng: np.random.Generator) -> str:
    link = _pick(rng, ("est", "semble", "reste", "devient", "paraît", "était", "sera", "demeure"))
    degree = _pick(rng, ("très ", "trop ", "assez ", "plutôt ", "", "", ""))
    return _with_time(rng, f"{_the(*_noun(rng))} {link} {degree}{_pick(rng, ADJECTIVES)}")


def _travel(rng: np.random.Generator) -> str:
    who = _pick(rng, (_pick(rng, NAMES), _the(*_noun(rng))))
    verb = _pick(rng, ("habite", "travaille", "arrive", "reste", "étudie", "passe", "voyage", "retourne", "meurt"))
    return _with_time(rng, f"{who} {verb} à {_pick(rng, PLACES)}")


def _purchase(rng: np.random.Generator) -> str:
    count = number(int(rng.integers(2, 10 ** rng.integers(1, 6) + 2)))
    noun, _ = _noun(rng)
    who = _pick(rng, ("il manque", "nous avons", "elle possède", "je voudrais", "vous vendez", "on compte", "il reste"))
    return f"{who} {count} {_plural(noun)}"


def _report(rng: np.random.Generator) -> str:
    year = number(int(rng.integers(1000, 2026)))
    return f"en {year} {_statement(rng)}"


def _subject(rng: np.random.Generator) -> tuple[str, int]:
    """The subject, and which of TENSES' endings it takes."""
    pronouns = (("je", 0), ("il", 0), ("elle", 0), ("on", 0), ("nous", 1), ("vous", 2), ("ils", 3), ("elles", 3))
    kind = rng.random()
    if kind < 0.4:
        return pronouns[rng.integers(len(pronouns))]
    if kind < 0.6:
        return _pick(rng, NAMES), 0
    noun, feminine = _noun(rng)
    if kind < 0.85:
        return _the(noun, feminine), 0
    return f"{_pick(rng, ('les', 'des', 'mes', 'nos', 'ces', 'leurs'))} {_plural(noun)}", 3


def _verb(rng: np.random.Generator, subject: str, ending: int) -> str:
    """Subject and verb: "je ne mange pas", "nous mangeons"."""
    tense = _pick(rng, tuple(TENSES))
    suffix = TENSES[tense][ending]
    if subject == "je":
        suffix = {"imperfect": "ais", "conditional": "erais", "future": "erai", "past": "ai"}.get(tense, suffix)
    stem = _pick(rng, VERBS)
    if suffix[0] in "aoâ":  # the consonant stays soft
        stem = stem + "e" if stem.endswith("g") else stem[:-1] + "ç" if stem.endswith("c") else stem
    if rng.random() < 0.15:
        return _elide(f"{subject} ne {stem}{suffix} pas")
    return _elide(f"{subject} {stem}{suffix}")


def _thing(rng: np.random.Generator) -> str:
    noun, feminine = _noun(rng)
    kind = rng.random()
    if kind < 0.3:
        thing = _the(noun, feminine)
    elif kind < 0.5:
        thing = f"{'une' if feminine else 'un'} {noun}"
    elif kind < 0.65:
        owner = _pick(rng, ("mon", "ton", "son") if not feminine or noun[0] in ELIDED else ("ma", "ta", "sa"))
        thing = f"{owner} {noun}"
    elif kind < 0.75:
        this = "cette" if feminine else "cet" if noun[0] in ELIDED else "ce"
        thing = f"{this} {noun}"
    else:
        thing = f"{_pick(rng, ('les', 'des', 'mes', 'nos', 'ces', 'leurs', 'plusieurs', 'quelques'))} {_plural(noun)}"
    if rng.random() < 0.2:
        thing += f" {_pick(rng, ADJECTIVES)}" + ("s" if kind >= 0.75 else "")
    if rng.random() < 0.15:
        thing += f" {_elide('de ' + _pick(rng, NAMES))}"
    return thing


def _where(rng: np.random.Generator) -> str:
    if rng.random() < 0.4:
        return f"à {_pick(rng, PLACES)}"
    noun, feminine = _noun(rng)
    place = _pick(rng, ("dans", "devant", "derrière", "sous", "sur", "avec", "sans", "pour", "chez"))
    return f"{place} {_the(noun, feminine)}"


def _with_time(rng: np.random.Generator, sentence: str) -> str:
    kind = rng.random()
    if kind < 0.15:
        return f"{_pick(rng, WHEN)} {sentence}"
    return f"{sentence} {_pick(rng, WHEN)}" if kind < 0.3 else sentence


def _noun(rng: np.random.Generator) -> tuple[str, bool]:
    feminine = bool(rng.random() < 0.5)
    return _pick(rng, FEMININE if feminine else MASCULINE), feminine


def _the(noun: str, feminine: bool) -> str:
    return f"l'{noun}" if noun[0] in ELIDED else f"{'la' if feminine else 'le'} {noun}"


def _plural(noun: str) -> str:
    if noun[-1] in "sxz":
        return noun
    if noun.endswith(("eau", "ou")) and noun not in ("trou", "clou"):
        return noun + "x"
    return noun[:-2] + "aux" if noun.endswith("al") else noun + "s"


def _elide(text: str) -> str:
    """`text` with je, ne, de and que shortened before a vowel."""
    words = text.split()
    for at in range(len(words) - 1):
        if words[at] in ("je", "ne", "de", "que") and words[at + 1][0] in ELIDED:
            words[at] = words[at][:-1] + "'"
    return " ".join(words).replace("' ", "'")


T = TypeVar("T")


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of them: of a list of words by Zipf's law, of few alternatives all alike."""
    if len(choices) < 20:
        return choices[int(rng.integers(len(choices)))]
    return choices[int(np.searchsorted(_cumulative(len(choices)), rng.random(), side="right"))]


@cache
def _cumulative(count: int) -> np.ndarray:
    weights = 1 / (np.arange(count) + 3)
    cumulative: np.ndarray = np.cumsum(weights / weights.sum())
    cumulative[-1] = 1.0
    return cumulative
